"""Make a checkpoint without its training nodes, for MXNet alone to run: a symbol and its weights.

    python export_mxnet.py --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3

``mx.model.load_checkpoint`` reads it; its one input is ``data``, so no label is bound. float32 and
int8 checkpoints are exported alike. Before anything is written, the copy has to say what the
checkpoint says of real images.
"""

import os

import common  # noqa: F401  readies the process for MXNet, so it comes first
from common import checkpoint, cli, export
from common.cli import UserError
from common.config import load_config, save_config
from common.lock import lock


def parse_args():
    """The command line."""
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    export.add_args(parser)
    parser.add_argument("--out-prefix", help="of the copy; default: MODEL_PREFIX-deploy")
    parser.add_argument("--overwrite", action="store_true", help="checkpoints at --out-prefix")
    args = parser.parse_args()
    args.out_prefix = args.out_prefix or f"{args.model_prefix}-deploy"
    if os.path.realpath(args.out_prefix) == os.path.realpath(args.model_prefix):
        raise UserError(f"--out-prefix {args.out_prefix}: is --model-prefix; choose another")
    return args


def main():
    """Check everything, strip, compare, save."""
    args = parse_args()
    config = load_config(args.model_prefix)
    symbol, *weights = checkpoint.load(args.model_prefix, args.load_epoch)
    images = export.real_images(args, config)
    with lock(args.out_prefix, "--out-prefix"):
        checkpoint.check_free(args.out_prefix, args.overwrite, "--out-prefix")
        stripped = export.without_training(symbol)
        largest = export.difference(
            "the copy",
            export.probabilities(stripped, *weights, images),
            export.probabilities(symbol, *weights, images),
        )
        source = checkpoint.params_path(args.model_prefix, args.load_epoch)
        save_config(args.out_prefix, **{**config, "exported_from": source})
        saved = checkpoint.save(args.out_prefix, args.load_epoch, stripped, *weights)
        checkpoint.remove(args.out_prefix, keep=(args.load_epoch,))
    print(f"{saved} and {args.out_prefix}-symbol.json")
    print(f"differs from {source} by at most {largest:.1e} on {len(images)} images")


if __name__ == "__main__":
    cli.run(main)
