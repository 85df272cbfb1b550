"""Print a network's layer table: ``python -m symbols alexnet --image-shape 3,227,227``."""

import symbols
from common import cli
from symbols import summary


def parse_args():
    parser = cli.ArgumentParser(
        prog="python -m symbols",
        description="Print what a network holds and costs, by layer.",
    )
    parser.add_argument("network", choices=symbols.NETWORKS)
    parser.add_argument("--image-shape", type=cli.image_shape, help="if not the network's own")
    parser.add_argument("--num-classes", type=cli.positive_int, help="if not the network's own")
    return parser.parse_args()


def main():
    args = parse_args()
    symbol = symbols.get_symbol(args.network, args.num_classes)
    image_shape = args.image_shape or symbols.IMAGE_SHAPES[args.network]
    with cli.blaming("--image-shape"):
        symbols.check_image_shape(symbol, image_shape)
    print(summary.report(args.network, symbol, image_shape))


if __name__ == "__main__":
    cli.run(main)
