"""Export a checkpoint for inference in MXNet alone: without Dropout, and without a label.

    python export_mxnet.py --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3

The copy is a symbol and its weights, float32 or int8; docs/serving.md says how to load it. Before
anything is written, it has to give the checkpoint's probabilities on real images.
"""

import argparse

from common import cli
from common.checkpoint import output, store
from common.checkpoint.config import config_entries, load_config
from common.convert import compare

_SUFFIX = "-deploy"  # of the new checkpoint's prefix


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = cli.ArgumentParser(__doc__)
    compare.add_args(parser)
    output.add_args(parser, _SUFFIX)
    args = parser.parse_args()
    output.resolve_prefix(args, _SUFFIX)
    return args


def main() -> None:
    """Check everything, remove the training nodes, compare, save."""
    args = parse_args()
    config = load_config(args.model_prefix)
    symbol, *weights = store.load(args.model_prefix, args.load_epoch)
    images = compare.real_images(args, config)
    with output.new_checkpoint(args.out_prefix, args.load_epoch, args.overwrite) as save:
        stripped = compare.without_training(symbol)
        largest = compare.difference(
            "the copy",
            compare.probabilities(stripped, *weights, images),
            compare.probabilities(symbol, *weights, images),
        )
        source = store.params_path(args.model_prefix, args.load_epoch)
        saved = save((stripped, *weights), config_entries(**{**config, "exported_from": source}))
    print(f"{saved} and {args.out_prefix}-symbol.json")
    print(f"differs from {source} by at most {largest:.1e} on {len(images)} images")


if __name__ == "__main__":
    cli.run(main)
