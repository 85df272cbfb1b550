"""Quantise a float32 checkpoint to int8: smaller, and faster on CPUs with VNNI.

    python quantize.py --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3 \
        --data-calib train.rec

Nothing is trained: the range of each layer's values is measured on real images. predict.py,
score.py and stock MXNet (its CPU build) use the new checkpoint like any other. MXNet's operators
and ours round differently, so probabilities differ in the third decimal or so. On a CPU without
VNNI int8 is the slower arithmetic: there predict.py, score.py and the page compute in float32 with
the rounded weights and say so; with ALEXNET_INT8_OPERATORS=1 they compute in int8. Either way fully
connected layers read 8-bit weights, which with one picture a pass saves a third of the time.
"""

import argparse
import os
import shlex
import sys

from common import cli
from common.checkpoint import output, store
from common.checkpoint.config import config_entries
from common.convert import quantization
from common.input import pipeline
from common.input.preparation import Preparation, sample_images
from common.io import cpus

_SUFFIX = "-int8"  # of the new checkpoint's prefix


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = cli.ArgumentParser(__doc__)
    store.add_args(parser)
    parser.add_argument(
        "--data-calib",
        required=True,
        metavar="X.rec",
        help="images to measure the ranges on; take the training records, so that the validation"
        " images stay unseen",
    )
    parser.add_argument(
        "--num-calib-examples",
        type=cli.positive_int,
        default=512,
        help="use at most so many of them",
    )
    output.add_args(parser, _SUFFIX)
    args = parser.parse_args()
    output.resolve_prefix(args, _SUFFIX)
    return args


def main() -> None:
    """Check everything, quantise, save, compare the sizes."""
    args = parse_args()
    quantization.check_build()
    where = args.model_prefix, args.load_epoch
    config, network = quantization.load_float32(*where, " already")
    trained, classes = config["args"], config["classes"]
    found = pipeline.checked_records(args.data_calib, trained["num_classes"], classes=classes)
    count = min(args.num_calib_examples, len(found))
    source = store.params_path(args.model_prefix, args.load_epoch)
    origin = {"quantized_from": source, "data_calib": args.data_calib, "num_calib_examples": count}
    with output.new_checkpoint(args.out_prefix, args.load_epoch, args.overwrite) as save:
        images = sample_images(found, count, Preparation.from_args(trained))
        network = quantization.quantize(*network, images, trained["image_shape"])
        saved = save(network, config_entries(trained, classes, int8=origin))

    before, after = (os.path.getsize(path) / 1e6 for path in (source, saved))
    print(f"{source} {before:.1f} MB -> {saved} {after:.1f} MB, calibrated on {count} images")
    if not cpus.has_int8():
        print("This CPU has no VNNI: here sums are float32, which is faster.")
    flags = f"--model-prefix {args.out_prefix} --load-epoch {args.load_epoch}"
    records = shlex.quote(trained["data_val"] or "X.rec")
    print(f"Score it: {os.path.relpath(sys.executable)} score.py {flags} --data-val {records}")


if __name__ == "__main__":
    cli.run(main)
