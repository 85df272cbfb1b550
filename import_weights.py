"""Convert another framework's AlexNet, or a network fine-tuned from it, to a checkpoint.

    python import_weights.py alexnet-owt-7be5be79.pth --out-prefix checkpoints/torchvision \
        --class-names data/imagenet_classes.txt
    python import_weights.py deploy.prototxt bvlc_alexnet.caffemodel \
        --out-prefix checkpoints/bvlc --class-names data/imagenet_classes.txt
    python import_weights.py bvlcalexnet-12.onnx --out-prefix checkpoints/bvlc

torchvision's and Gluon's AlexNet becomes ``alexnet_owt``. The file may be .pth, .pth.tar,
.safetensors, Gluon's .params, or .onnx as torch.onnx writes it. No pickle in it is executed, and
PyTorch is not needed. Caffe's bvlc_alexnet becomes ``alexnet2012``, its CaffeNet ``caffenet``, from
Caffe's two files or from ONNX. LRN's k, the rounding of map sizes and the size of the images are
those of the file. The checkpoint takes R, G, B, as all do here, whatever the file takes; a softmax
is added where the file has none.

Before the checkpoint is written, MXNet has to compute from it the probabilities that OpenCV
computes from the file itself or, where a file has weights alone, that numpy computes in float64.
"""

import argparse
import os
import re
import sys
from typing import Callable, Dict, NamedTuple, Sequence, Tuple

import symbols
from common import cli
from common.checkpoint import output
from common.checkpoint.config import config_entries
from common.cli import UserError
from common.convert import alexnet_import, caffe_reader, onnx_reader, zoo_import
from common.io.opencv import cv2
from common.records.class_names import read_names
from common.runtime import native
from common.runtime.mxnet import mx

_EPOCH = 0  # the new checkpoint's number: none of its epochs were trained here
# What makers of files trained with: order of the input, and of R, G, B mean and std, 0 to 255.
_OF_CAFFE = "BGR", [122.679, 116.669, 104.007], [1.0, 1.0, 1.0]
_OF_ZOO = "RGB", zoo_import.MEAN, zoo_import.STD


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        metavar="FILE",
        help=f"weights of torchvision's or Gluon's AlexNet ({', '.join(zoo_import.EXTENSIONS)});"
        " an .onnx file; or Caffe's deploy.prototxt or train_val.prototxt, and its caffemodel",
    )
    output.add_args(parser)
    add(
        "--class-names",
        metavar="TXT",
        help="a name a line, in label order; or a label file of Caffe, Keras, TensorFlow, the"
        " ImageNet kit: WordNet ids or numbers from 0 give the order; JSON and CSV, too",
    )
    add(
        "--channel-order",
        choices=["BGR", "RGB"],
        help="of the file's own input; default: RGB of torchvision's and Gluon's AlexNet, BGR of"
        " Caffe's",
    )
    add(
        "--mean",
        type=mean,
        help="of R, G and B, 0 to 255, which training subtracted; or Caffe's mean.binaryproto or a"
        " .npy file, in --channel-order; default: ImageNet's, as the makers of the file had it",
    )
    add("--std", type=cli.numbers, help="of R, G and B; training divided by it; default: as --mean")
    add("--resize", type=cli.positive_int, default=256, help="pictures' short side before the crop")
    return parser.parse_args()


def mean(text: str) -> Sequence[float]:
    """An argparse type: numbers of R, G, B; of a file, an array in the file's order."""
    if text.endswith((".binaryproto", ".npy")):
        return caffe_reader.mean_of_file(text)
    return cli.numbers(text)


def resolve(args: argparse.Namespace, network: str) -> None:
    """Set what flags leave open as ``network``'s makers have it; --mean as numbers of R, G, B.

    UserError if flags do not fit each other.
    """
    order, mean, std = _OF_ZOO if network == zoo_import.NETWORK else _OF_CAFFE
    args.channel_order = args.channel_order or order
    args.mean, args.std = args.mean if args.mean is not None else mean, args.std or std
    if not isinstance(args.mean, list):  # but an array of a file
        args.mean = args.mean[:: 1 if args.channel_order == "RGB" else -1].tolist()
    if len(args.mean) != 3 or len(args.std) != 3:
        raise UserError("--mean and --std: take three numbers, of R, G and B")
    if min(args.std) <= 0:
        raise UserError("--std: must be above 0")


class Imported(NamedTuple):
    """A network that computes what the file's own does."""

    network: str
    symbol: mx.sym.Symbol
    weights: Dict[str, mx.nd.NDArray]
    image_shape: Tuple[int, int, int]
    files: Tuple[str, ...]
    prove: Callable[[], str]  # compares it with another program; says with which, how exactly


def imported(args: argparse.Namespace) -> Imported:
    """The network of the files; UserError if they are no AlexNet, damaged, or too few or many."""
    first, *more = args.files
    if len(more) > 1 or not more and first.endswith((".prototxt", ".caffemodel")):
        raise UserError("give one FILE, or Caffe's two: deploy.prototxt and a caffemodel")
    return from_opencv(args) if more or first.endswith(".onnx") else from_zoo(args)


def from_opencv(args: argparse.Namespace) -> Imported:
    """Caffe's network or an ONNX one, compared with OpenCV's reading of the files."""
    native.drop_lines(native.OPENCV_NOISE)  # of damaged files
    if hasattr(cv2, "setLogLevel"):  # for messages of several lines; OpenCV 4.5.1 lacks it
        cv2.setLogLevel(0)
    if len(args.files) == 2:
        source = caffe_reader.read(*args.files)
    else:
        source = onnx_reader.read(*args.files, rgb=args.channel_order == "RGB")
    network = alexnet_import.network(source)
    resolve(args, network)
    source = source._replace(rgb=args.channel_order == "RGB")
    symbol = alexnet_import.build(source, symbols.get_symbol)
    weights = alexnet_import.weights(source, symbol)
    if source.image_shape[0] != 3:
        raise UserError(f"{args.files[0]}: takes images of {source.image_shape[0]} channels, not 3")

    def prove():
        largest = alexnet_import.difference(symbol, weights, source, args.mean, args.std)
        return f"{source.files[-1]} in OpenCV by at most {largest:.1e}"

    return Imported(network, symbol, weights, source.image_shape, source.files, prove)


def from_zoo(args: argparse.Namespace) -> Imported:
    """torchvision's or Gluon's network, compared with numpy in float64."""
    (path,) = args.files
    resolve(args, zoo_import.NETWORK)
    arrays = zoo_import.read(path)
    symbol = symbols.get_symbol(zoo_import.NETWORK, len(arrays["fc3_bias"]))
    zoo_import.check_shapes(path, arrays, symbol)

    def prove():
        largest = zoo_import.difference(path, arrays, symbol)
        return f"its layers in numpy by at most {largest:.1e}"

    weights = {name: mx.nd.array(array) for name, array in arrays.items()}
    if args.channel_order == "BGR":
        weights["conv1_weight"] = mx.nd.flip(weights["conv1_weight"], axis=1)
    return Imported(zoo_import.NETWORK, symbol, weights, zoo_import.IMAGE_SHAPE, (path,), prove)


def check(args: argparse.Namespace, made: Imported) -> None:
    """Raise UserError if the crop is larger than the pictures, or a FILE would be overwritten."""
    if args.resize < max(made.image_shape[1:]):
        shape = ",".join(map(str, made.image_shape))
        raise UserError(f"--resize {args.resize}: is smaller than the network's images, {shape}")
    written = re.escape(os.path.realpath(args.out_prefix)) + r"-(\d{4,}|symbol)\.(params|json)"
    for path in args.files:
        if re.fullmatch(written, os.path.realpath(path)):
            raise UserError(f"--out-prefix {args.out_prefix}: would replace {path}; take another")


def main() -> None:
    """Read the files, convert the weights, compare with another program, save."""
    args = parse_args()
    made = imported(args)
    check(args, made)
    classes = len(made.weights["fc3_bias"])
    names = read_names(args.class_names, classes) if args.class_names else None

    settings = {
        "network": made.network,
        "num_classes": classes,
        "image_shape": made.image_shape,
        "resize": args.resize,
        "rgb_mean": args.mean,
        "rgb_std": args.std,
        "data_val": None,
    }
    config = config_entries(settings, names, imported_from=made.files)
    with output.new_checkpoint(args.out_prefix, _EPOCH, args.overwrite) as save:
        proof = made.prove()
        saved = save((made.symbol, made.weights, {}), config)

    shape = ",".join(map(str, made.image_shape))
    print(f"{saved}: {classes} classes, images {shape}")
    values = (",".join(f"{value:g}" for value in one) for one in (args.mean, args.std))
    print(
        f"input: {args.channel_order}; of R, G, B: mean {next(values)}, std {next(values)}"
        " (--channel-order, --mean, --std)"
    )
    print(f"differs from {proof} in a probability")
    flags = f"--model-prefix {args.out_prefix} --load-epoch {_EPOCH}"
    print(f"Try it: {os.path.relpath(sys.executable)} predict.py {flags} picture.jpg")


if __name__ == "__main__":
    cli.run(main)
