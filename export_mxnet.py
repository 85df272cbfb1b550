"""Export a checkpoint for inference in MXNet alone: without Dropout, and without a label.

    python export_mxnet.py --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3

The copy is a symbol and its weights, float32 or int8; docs/serving.md says how to load it.
``--gluon X.params`` writes a file instead, of an alexnet_owt's weights by the names of Gluon's zoo:
``mx.gluon.model_zoo.vision.alexnet(classes=N).load_parameters("X.params")``. Before anything is
written, it has to give the checkpoint's probabilities on real images.
"""

import argparse
import os

from common import cli
from common.checkpoint import arrays, output, store
from common.checkpoint.config import config_entries, load_config
from common.cli import UserError
from common.convert import compare, quantization, zoo_import
from common.io.files import atomic

_SUFFIX = "-deploy"  # of the new checkpoint's prefix


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = cli.ArgumentParser(__doc__)
    compare.add_args(parser)
    output.add_args(parser, _SUFFIX)
    parser.add_argument(
        "--gluon",
        type=cli.new_file_of(".params"),
        metavar="X.params",
        help="write this file for Gluon's AlexNet, in place of a checkpoint",
    )
    args = parser.parse_args()
    if args.gluon and (args.out_prefix or args.overwrite):
        raise UserError("--out-prefix, --overwrite: are not for --gluon, which writes a new file")
    if args.gluon and os.path.exists(args.gluon):
        raise UserError(f"--gluon {args.gluon}: exists already; choose another name")
    output.resolve_prefix(args, _SUFFIX)
    return args


def main() -> None:
    """Check everything, remove the training nodes, compare, save."""
    args = parse_args()
    if args.gluon:
        export_gluon(args)
        return
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


def export_gluon(args: argparse.Namespace) -> None:
    """Write the weights for Gluon's own network, which has to give the same probabilities.

    UserError if the checkpoint is of another network, or int8.
    """
    where = args.model_prefix, args.load_epoch
    config, (symbol, *weights) = quantization.load_float32(*where, "; Gluon's AlexNet is not")
    network, classes = config["args"].get("network") or "another", config["args"]["num_classes"]
    if network != zoo_import.NETWORK:
        raise UserError(f"--gluon: takes {zoo_import.NETWORK}; {args.model_prefix} has {network}")
    images = compare.real_images(args, config)
    expected = compare.probabilities(compare.without_training(symbol), *weights, images)
    with atomic(args.gluon) as temporary:
        arrays.save_arrays(temporary, zoo_import.to_gluon(weights[0]))
        said = zoo_import.probabilities_of_gluon(temporary, classes, images)
        largest = compare.difference(f"{args.gluon} in Gluon", said, expected)
    print(args.gluon)
    print(f"differs from {store.params_path(*where)} by at most {largest:.1e} in Gluon's network")


if __name__ == "__main__":
    cli.run(main)
