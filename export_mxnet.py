"""Export a checkpoint for inference in MXNet alone: without Dropout, and without a label.

    python export_mxnet.py --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3

The copy is a symbol and its weights, float32 or int8; docs/serving.md says how to load it. Before
anything is written, it has to give the checkpoint's probabilities on real images.
"""

import os

from common import cli
from common.checkpoint import store
from common.checkpoint.config import load_config, save_config
from common.cli import UserError
from common.convert import compare
from common.io.lock import lock


def parse_args():
    """The command line."""
    parser = cli.ArgumentParser(__doc__)
    compare.add_args(parser)
    parser.add_argument("--out-prefix", help="of the copy; default: MODEL_PREFIX-deploy")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the checkpoints at --out-prefix"
    )
    args = parser.parse_args()
    args.out_prefix = args.out_prefix or f"{args.model_prefix}-deploy"
    if os.path.realpath(args.out_prefix) == os.path.realpath(args.model_prefix):
        raise UserError(f"--out-prefix {args.out_prefix}: is --model-prefix; choose another")
    return args


def main():
    """Check everything, remove the training nodes, compare, save."""
    args = parse_args()
    config = load_config(args.model_prefix)
    symbol, *weights = store.load(args.model_prefix, args.load_epoch)
    images = compare.real_images(args, config)
    with lock(args.out_prefix, "--out-prefix"):
        store.check_free(args.out_prefix, args.overwrite, "--out-prefix")
        stripped = compare.without_training(symbol)
        largest = compare.difference(
            "the copy",
            compare.probabilities(stripped, *weights, images),
            compare.probabilities(symbol, *weights, images),
        )
        source = store.params_path(args.model_prefix, args.load_epoch)
        save_config(args.out_prefix, **{**config, "exported_from": source})
        saved = store.save(args.out_prefix, args.load_epoch, stripped, *weights)
        store.remove(args.out_prefix, keep=(args.load_epoch,))
    print(f"{saved} and {args.out_prefix}-symbol.json")
    print(f"differs from {source} by at most {largest:.1e} on {len(images)} images")


if __name__ == "__main__":
    cli.run(main)
