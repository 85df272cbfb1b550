"""Quantise a float32 checkpoint to int8: smaller, and faster on the CPU.

    python quantize.py --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3 \
        --data-calib train.rec

Nothing is trained: the range of each layer's values is measured on real images. predict.py,
score.py and stock MXNet (its CPU build) use the new checkpoint like any other.
"""

import os
import sys

from common import cli
from common.checkpoint import store
from common.checkpoint.config import load_config, save_config
from common.cli import UserError
from common.convert import quantization
from common.input import pipeline
from common.input.preparation import Preparation, sample_images
from common.io.lock import lock


def parse_args():
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
    parser.add_argument("--out-prefix", help="of the int8 checkpoint; default: MODEL_PREFIX-int8")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the checkpoints at --out-prefix"
    )
    parser.add_argument("--verbose", action="store_true", help="show MXNet's own messages")
    args = parser.parse_args()
    args.out_prefix = args.out_prefix or f"{args.model_prefix}-int8"
    if os.path.realpath(args.out_prefix) == os.path.realpath(args.model_prefix):
        raise UserError(f"--out-prefix {args.out_prefix}: is --model-prefix; choose another")
    return args


def main():
    """Check everything, quantise, save, compare the sizes."""
    args = parse_args()
    quantization.check_build()
    config = load_config(args.model_prefix)
    network = store.load(args.model_prefix, args.load_epoch)
    if quantization.is_quantized(network[0]):
        raise UserError(
            f"--model-prefix {args.model_prefix}: is int8 already; give the float32 one"
        )
    trained, classes = config["args"], config["classes"]
    found = pipeline.checked_records(args.data_calib, trained["num_classes"], classes=classes)
    count = min(args.num_calib_examples, len(found))
    source = store.params_path(args.model_prefix, args.load_epoch)
    origin = {"quantized_from": source, "data_calib": args.data_calib, "num_calib_examples": count}
    with lock(args.out_prefix, "--out-prefix"):
        store.check_free(args.out_prefix, args.overwrite, "--out-prefix")
        images = sample_images(found, count, Preparation.from_args(trained))
        network = quantization.quantize(*network, images, trained["image_shape"], args.verbose)
        save_config(args.out_prefix, trained, classes, int8=origin)
        saved = store.save(args.out_prefix, args.load_epoch, *network)
        store.remove(args.out_prefix, keep=(args.load_epoch,))

    before, after = (os.path.getsize(path) / 1e6 for path in (source, saved))
    print(f"{source} {before:.1f} MB -> {saved} {after:.1f} MB, calibrated on {count} images")
    flags = f"--model-prefix {args.out_prefix} --load-epoch {args.load_epoch}"
    records = trained["data_val"] or "X.rec"
    print(f"Score it: {os.path.relpath(sys.executable)} score.py {flags} --data-val {records}")


if __name__ == "__main__":
    cli.run(main)
