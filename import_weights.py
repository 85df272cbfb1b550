"""Convert Caffe's bvlc_alexnet, or a network fine-tuned from it, to an alexnet2012 checkpoint.

    python import_weights.py --prototxt deploy.prototxt --caffemodel bvlc_alexnet.caffemodel \
        --out-prefix checkpoints/bvlc --class-names data/imagenet_classes.txt
    python import_weights.py --onnx bvlc_alexnet.onnx --out-prefix checkpoints/bvlc

LRN's k, the rounding of map sizes and the size of the images are those of the file. The checkpoint
takes R, G, B, as all do here, whatever the file takes; a softmax is added where the file has none.
Before it is written, MXNet has to compute from it the probabilities that OpenCV computes from the
file itself.
"""

import argparse
import os
import sys
from typing import Sequence

import numpy as np

import symbols
from common import cli
from common.checkpoint import output
from common.checkpoint.config import config_entries
from common.cli import UserError
from common.convert import alexnet_import, caffe_reader, onnx_reader
from common.io.opencv import cv2
from common.runtime import native

_EPOCH = 0  # the new checkpoint's number: none of its epochs were trained here


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--prototxt", help="Caffe's network for inference: deploy.prototxt")
    parser.add_argument("--caffemodel", help="its weights")
    parser.add_argument("--onnx", metavar="X.onnx", help="network and weights as one ONNX file")
    output.add_args(parser)
    parser.add_argument(
        "--class-names",
        metavar="TXT",
        help="one name a line, as in Caffe's synset_words.txt or data/imagenet_classes.txt",
    )
    parser.add_argument(
        "--channel-order", choices=["BGR", "RGB"], default="BGR", help="of the file's own input"
    )
    parser.add_argument(
        "--mean",
        type=mean,
        default=[122.679, 116.669, 104.007],
        help="of R, G and B, 0 to 255, which training subtracted; or Caffe's mean.binaryproto or a"
        " .npy file, in --channel-order",
    )
    parser.add_argument(
        "--std", type=cli.numbers, default=[1.0] * 3, help="of R, G and B; training divided by it"
    )
    parser.add_argument(
        "--resize",
        type=cli.positive_int,
        default=256,
        help="short side of pictures before the crop",
    )
    return checked(parser.parse_args())


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments, --mean as three numbers of R, G, B.

    Raises:
        UserError: flags are missing or do not fit each other.
    """
    caffe = args.prototxt, args.caffemodel
    if all(caffe) == bool(args.onnx) or (args.onnx and any(caffe)):
        raise UserError("give --prototxt and --caffemodel, or --onnx")
    if isinstance(args.mean, np.ndarray):
        args.mean = args.mean[:: 1 if args.channel_order == "RGB" else -1].tolist()
    if len(args.mean) != 3 or len(args.std) != 3:
        raise UserError("--mean and --std: take three numbers, of R, G and B")
    if min(args.std) <= 0:
        raise UserError("--std: must be above 0")
    return args


def mean(text: str) -> Sequence[float]:
    """An argparse type: numbers of R, G, B; of a file, an array in the file's order."""
    if text.endswith((".binaryproto", ".npy")):
        return caffe_reader.mean_of_file(text)
    return cli.numbers(text)


def main() -> None:
    """Read the files, convert the weights, compare with OpenCV, save."""
    args = parse_args()
    native.drop_lines(native.OPENCV_NOISE)  # of damaged files
    if hasattr(cv2, "setLogLevel"):  # for messages of several lines; OpenCV 4.5.1 lacks it
        cv2.setLogLevel(0)
    rgb = args.channel_order == "RGB"
    if args.onnx:
        source = onnx_reader.read(args.onnx, rgb)
    else:
        source = caffe_reader.read(args.prototxt, args.caffemodel)._replace(rgb=rgb)
    symbol = alexnet_import.build(source, symbols.get_symbol)
    weights = alexnet_import.weights(source, symbol)
    classes = len(weights["fc3_bias"])
    names = caffe_reader.class_names(args.class_names, classes) if args.class_names else None
    largest = alexnet_import.difference(symbol, weights, source, args.mean, args.std)

    settings = {
        "network": alexnet_import.NETWORK,
        "num_classes": classes,
        "image_shape": source.image_shape,
        "resize": args.resize,
        "rgb_mean": args.mean,
        "rgb_std": args.std,
        "data_val": None,
    }
    config = config_entries(settings, names, imported_from=source.files)
    with output.new_checkpoint(args.out_prefix, _EPOCH, args.overwrite) as save:
        saved = save((symbol, weights, {}), config)

    shape = ",".join(map(str, source.image_shape))
    print(f"{saved}: {classes} classes, images {shape}")
    of_colours = (",".join(f"{value:g}" for value in values) for values in (args.mean, args.std))
    print(
        f"input: {args.channel_order}; of R, G, B: mean {next(of_colours)}, std {next(of_colours)}"
        " (--channel-order, --mean, --std)"
    )
    print(f"differs from {source.files[-1]} in OpenCV by at most {largest:.1e} in a probability")
    flags = f"--model-prefix {args.out_prefix} --load-epoch {_EPOCH}"
    print(f"Try it: {os.path.relpath(sys.executable)} predict.py {flags} picture.jpg")


if __name__ == "__main__":
    cli.run(main)
