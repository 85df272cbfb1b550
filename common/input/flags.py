"""The flags that say which images a network is trained on and how they are prepared."""

import argparse

from common import cli
from common.cli import UserError
from common.io import cpus
from common.records.identity import record_files

from . import augmentation, dali


def add_data_args(parser: argparse.ArgumentParser) -> None:
    """Add the data flags and, in a group of their own, the augmentation flags."""
    data = parser.add_argument_group("data")
    add = data.add_argument
    add(
        "--data-train",
        metavar="X.rec",
        help="training images (data/README.md); 'a.rec;b.rec' is a set",
    )
    add("--data-val", metavar="X.rec", help="images to evaluate on after each epoch")
    add_preparation_args(data)
    add("--num-classes", type=cli.positive_int, help="default: as many as the records have")
    add(
        "--class-weights",
        metavar="balanced|FILE",
        help="weight of each class in the gradient: balanced, or a file with a class and its weight"
        " on each line",
    )
    add(
        "--draw",
        choices=["all", "balanced"],
        default="all",
        help="the images of an epoch: each once, or each class equally often",
    )
    add("--num-examples", type=cli.positive_int, help="images an epoch; default: all")
    add("--data-nthreads", type=cli.positive_int, default=cpus.available(), help="decoding threads")
    add("--data-backend", choices=["mxnet", "dali"], default="mxnet", help="reader")
    add(
        "--deterministic",
        action="store_true",
        help="the same flags give the same weights, bit for bit; one thread decodes, and"
        " --cudnn-tune is off",
    )
    add(
        "--data-dtype",
        choices=["float32", "uint8"],
        default="float32",
        help="of training batches; uint8: a quarter of the bytes to copy, the devices normalise",
    )
    augmentation.add_args(parser)


def add_preparation_args(parser: argparse._ActionsContainer) -> None:
    """Add the flags that :meth:`common.input.preparation.Preparation.from_args` reads."""
    add = parser.add_argument
    add("--image-shape", type=cli.image_shape, help="of the network's input: C,H,W")
    add("--resize", type=cli.positive_int, help="short side before the crop, px")
    add("--rgb-mean", type=cli.numbers, help="subtracted from each channel, R,G,B")
    add("--rgb-std", type=cli.numbers, help="divisor of each channel, R,G,B")


def check_data_args(args: argparse.Namespace) -> None:
    """Refuse combinations of flags that MXNet would ignore, or crash on."""
    check_preparation_args(args)
    if args.draw == "balanced" and (args.benchmark or args.data_backend == "dali"):
        raise UserError("--draw balanced: needs record files, and --data-backend mxnet")
    if args.draw == "balanced" and record_files(args.data_train or "")[1:]:
        raise UserError("--draw balanced: takes one record file as --data-train, not a set")
    if args.draw == "balanced" and args.class_weights:
        raise UserError(
            "--draw balanced and --class-weights: choose one; each makes the classes count alike"
        )
    augmentation.check_args(args)
    if args.data_backend == "dali":
        dali.check_args(args)


def check_preparation_args(args: argparse.Namespace) -> None:
    """Refuse values of the flags of :func:`add_preparation_args` that do not fit each other."""
    channels = args.image_shape[0]
    for flag, values in (("--rgb-mean", args.rgb_mean), ("--rgb-std", args.rgb_std)):
        if len(values) != channels:
            raise UserError(f"{flag}: {len(values)} numbers for images of {channels} channels")
    if min(args.rgb_std) <= 0:
        raise UserError("--rgb-std: must be above 0")
    if args.resize is not None and args.resize < max(args.image_shape[1:]):
        raise UserError(
            f"--resize {args.resize}: is smaller than the crop, --image-shape"
            f" {','.join(map(str, args.image_shape))}"
        )
