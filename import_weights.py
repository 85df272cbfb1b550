"""Convert Caffe's bvlc_alexnet, or a network fine-tuned from it, to an alexnet2012 checkpoint.

    python import_weights.py --prototxt deploy.prototxt --caffemodel bvlc_alexnet.caffemodel \
        --out-prefix checkpoints/bvlc --class-names data/imagenet_classes.txt
    python import_weights.py --onnx bvlc_alexnet.onnx --out-prefix checkpoints/bvlc

LRN's k, the rounding of map sizes and the size of the images are those of the file. Caffe's images
are B, G, R; the checkpoint takes R, G, B, as all do here. Before it is written, MXNet has to
compute from it the probabilities that OpenCV computes from the file itself.
"""

import argparse
import os
import sys

import symbols
from common import cli
from common.checkpoint import output
from common.checkpoint.config import config_entries
from common.cli import UserError
from common.convert import alexnet_import, caffe_reader, onnx_reader
from common.records.class_names import read_names
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
        help="a name a line, in label order; or a label file of Caffe, Keras, TensorFlow, the"
        " ImageNet kit: WordNet ids or numbers from 0 give the order; JSON and CSV, too",
    )
    parser.add_argument(
        "--mean",
        type=cli.numbers,
        default=[122.679, 116.669, 104.007],
        help="of R, G and B, 0 to 255; training subtracted it",
    )
    parser.add_argument(
        "--resize",
        type=cli.positive_int,
        default=256,
        help="short side of pictures before the crop",
    )
    args = parser.parse_args()
    caffe = args.prototxt, args.caffemodel
    if all(caffe) == bool(args.onnx) or (args.onnx and any(caffe)):
        raise UserError("give --prototxt and --caffemodel, or --onnx")
    if len(args.mean) != 3:
        raise UserError("--mean: takes three numbers, of R, G and B")
    return args


def main() -> None:
    """Read the files, convert the weights, compare with OpenCV, save."""
    args = parse_args()
    native.drop_lines(native.OPENCV_NOISE)  # of damaged files
    if args.onnx:
        source = onnx_reader.read(args.onnx)
    else:
        source = caffe_reader.read(args.prototxt, args.caffemodel)
    symbol = alexnet_import.build(source, symbols.get_symbol)
    weights = alexnet_import.weights(source, symbol)
    classes = len(weights["fc3_bias"])
    names = read_names(args.class_names, classes) if args.class_names else None
    largest = alexnet_import.difference(symbol, weights, source, args.mean)

    settings = {
        "network": alexnet_import.NETWORK,
        "num_classes": classes,
        "image_shape": source.image_shape,
        "resize": args.resize,
        "rgb_mean": args.mean,
        "rgb_std": [1.0, 1.0, 1.0],
        "data_val": None,
    }
    config = config_entries(settings, names, imported_from=source.files)
    with output.new_checkpoint(args.out_prefix, _EPOCH, args.overwrite) as save:
        saved = save((symbol, weights, {}), config)

    shape = ",".join(map(str, source.image_shape))
    print(f"{saved}: {classes} classes, images {shape}")
    print(f"differs from {source.files[-1]} in OpenCV by at most {largest:.1e} in a probability")
    flags = f"--model-prefix {args.out_prefix} --load-epoch {_EPOCH}"
    print(f"Try it: {os.path.relpath(sys.executable)} predict.py {flags} picture.jpg")


if __name__ == "__main__":
    cli.run(main)
