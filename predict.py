"""Name what is in pictures.

    python predict.py --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3 cat.jpg ...

Size, mean and class names come from the checkpoint's own record of how it was trained.
"""

import common  # noqa: F401  readies the process for MXNet, so it comes first
from common import checkpoint, cli
from common.inference import Classifier


def main():
    """Print each picture's likeliest classes."""
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="any format OpenCV reads")
    checkpoint.add_args(parser)
    parser.add_argument("--top-k", type=cli.positive_int, default=5, help="guesses a picture")
    args = parser.parse_args()
    classifier = Classifier(args.model_prefix, args.load_epoch)
    for path in args.images:
        print(path)
        for guess in classifier.name_file(path, args.top_k):
            print(f"  {guess.probability:6.1%}  {guess.name}")


if __name__ == "__main__":
    cli.run(main)
