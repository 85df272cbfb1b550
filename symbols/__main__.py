"""Print a network's layer table: ``python -m symbols alexnet --image-shape 3,227,227``."""

import argparse

from common import cli

from . import check_image_shape, designed_for, get_symbol, known, options, summary


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = cli.ArgumentParser(
        prog="python -m symbols",
        description="Print a network's layers with their parameters, memory and arithmetic.",
    )
    parser.add_argument(
        "network", type=known, help="such as alexnet, or a file of yours in symbols/"
    )
    parser.add_argument("--image-shape", type=cli.image_shape, help="default: the network's own")
    parser.add_argument("--num-classes", type=cli.positive_int, help="default: the network's own")
    options.add_args(parser)
    args = parser.parse_args()
    with cli.blaming("network"):
        options.resolve(args)
    return args


def main() -> None:
    """Print the table."""
    args = parse_args()
    with cli.blaming("network"):
        symbol = get_symbol(args.network, args.num_classes, **options.given(args))
    image_shape = args.image_shape or designed_for(args.network)
    with cli.blaming("--image-shape"):
        check_image_shape(symbol, image_shape)
    print(summary.report(args.network, symbol, image_shape))


if __name__ == "__main__":
    cli.run(main)
