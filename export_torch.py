"""Export a float32 checkpoint to PyTorch: a module to read, X.py, and its weights, X.safetensors.

    python export_torch.py --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3

docs/leaving-mxnet.md says what the files hold, how to use them, and what stays exact.
"""

import argparse
import importlib.util
import os
import re

from common import cli
from common.checkpoint import store
from common.cli import UserError
from common.convert import compare, quantization, torch_writer
from common.io import files


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = cli.ArgumentParser(__doc__)
    compare.add_args(parser)
    parser.add_argument("--out", metavar="X", help="default: MODEL_PREFIX_NNNN, with _ for -")
    parser.add_argument("--overwrite", action="store_true", help="replace the files at --out")
    args = parser.parse_args()
    folder, name = os.path.split(f"{args.model_prefix}_{args.load_epoch:04d}")
    out = args.out or os.path.join(folder, re.sub(r"\W", "_", name))  # Python can import that
    args.out = re.sub(r"\.(py|safetensors)$", "", out)
    files.check_is_local(args.out, "--out")
    return args


def main() -> None:
    """Check everything, convert, compare where PyTorch is installed, write."""
    args = parse_args()
    paths = [f"{args.out}.py", f"{args.out}.safetensors"]
    for path in paths:
        if os.path.exists(path) and not args.overwrite:
            raise UserError(f"--out {path}: already exists; choose another, or pass --overwrite")
    where = args.model_prefix, args.load_epoch
    config, network = quantization.load_float32(*where, ", which has no PyTorch form here")
    symbol, *weights = network
    arrays = {name: array for group in weights for name, array in group.items()}
    source = torch_writer.convert(symbol, arrays, config["args"]["image_shape"])
    origin = os.path.basename(store.params_path(*where))
    text = torch_writer.module(source, config, origin)
    compared = _compare(args, config, network, text, source.weights)
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    with files.atomic(*paths, instead_of=paths[:1]) as temporary:
        torch_writer.write(text, source.weights, *temporary)
    print(f"{paths[0]} and {paths[1]}")
    print(compared)


def _compare(args, config, network, text, weights):
    """What is to be said of the comparison with MXNet."""
    if not importlib.util.find_spec("torch"):
        return (
            "not compared with MXNet, as PyTorch is not installed here: pip install torch, then run"
            " this again with --overwrite"
        )
    images = compare.real_images(args, config)
    symbol, *params = network
    expected = compare.probabilities(compare.without_training(symbol), *params, images)
    largest = torch_writer.difference(text, weights, images, expected)
    return f"PyTorch differs from MXNet by at most {largest:.1e} on {len(images)} images"


if __name__ == "__main__":
    cli.run(main)
