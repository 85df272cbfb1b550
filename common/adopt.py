"""Say once how images are prepared for a checkpoint of another MXNet program.

    python -m common.adopt --model-prefix models/caffenet --load-epoch 0 --image-shape 3,227,227 \
        --resize 256 --rgb-mean 122.679,116.669,104.007 --class-names data/imagenet_classes.txt

It writes MODEL_PREFIX-config.json, which predict.py, score.py, quantize.py and the export scripts
read. The checkpoint itself stays as it is.
"""

import argparse
import os

import numpy as np

from common import cli
from common.checkpoint import store
from common.checkpoint.config import config_path, save_config
from common.checkpoint.fit import check_weights
from common.cli import UserError
from common.convert import compare
from common.input import flags
from common.records.class_names import read_names
from common.runtime.mxnet import mx


def parse_args() -> argparse.Namespace:
    """The command line, with MXNet's own defaults: no mean, and a divisor of 1."""
    parser = cli.ArgumentParser(__doc__)
    store.add_args(parser)
    flags.add_preparation_args(parser)
    parser.add_argument("--class-names", metavar="TXT", help="one name a line; default: numbers")
    args = parser.parse_args()
    if not args.image_shape:
        raise UserError("--image-shape: needed, as the network was trained")
    channels = args.image_shape[0]
    args.rgb_mean = args.rgb_mean or [0.0] * channels
    args.rgb_std = args.rgb_std or [1.0] * channels
    flags.check_preparation_args(args)
    return args


def count_classes(
    prefix: str, symbol: mx.sym.Symbol, arg_params: dict, aux_params: dict, image_shape: tuple
) -> int:
    """How many probabilities the network makes of an image of noise; UserError if it makes none."""
    image = np.random.default_rng(0).normal(0, 50, (1, *image_shape)).astype(np.float32)
    said = compare.probabilities(symbol, arg_params, aux_params, image)
    if said.ndim != 2 or said.min() < 0 or not np.allclose(said.sum(), 1, atol=1e-3):
        raise UserError(
            f"{prefix}-symbol.json: its output is not class probabilities; save the network"
            " with a softmax at its end"
        )
    return said.shape[1]


def main() -> None:
    """Load the checkpoint, run it on an image of this size, write its config."""
    args = parse_args()
    prefix, path = args.model_prefix, config_path(args.model_prefix)
    if os.path.exists(path):
        raise UserError(f"{path}: exists; delete it to make it anew")
    symbol, *weights = store.load(prefix, args.load_epoch)
    params = store.params_path(prefix, args.load_epoch)
    check_weights(params, symbol, {**weights[0], **weights[1]}, args.image_shape)
    classes = count_classes(prefix, symbol, *weights, args.image_shape)
    names = read_names(args.class_names, classes) if args.class_names else None
    settings = {**vars(args), "network": None, "num_classes": classes, "data_val": None}
    save_config(prefix, settings, names)
    print(f"{path}: {classes} classes, images {','.join(map(str, args.image_shape))}")


if __name__ == "__main__":
    cli.run(main)
