"""Export a float32 checkpoint to ONNX.

    python export_onnx.py --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3

docs/serving.md says what the file holds, how it is checked before it is written, and how to run it.
"""

import argparse
import os

from common import cli
from common.cli import UserError
from common.convert import compare, onnx_writer, quantization
from common.io import files

_BATCH_SIZES = (1, 3)  # that a file of any batch size is compared with


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = cli.ArgumentParser(__doc__)
    compare.add_args(parser)
    batch = parser.add_mutually_exclusive_group()
    batch.add_argument("--batch-size", type=cli.positive_int, default=1, help="images in each run")
    batch.add_argument(
        "--dynamic-batch", action="store_true", help="any number of images in each run"
    )
    parser.add_argument("--out", metavar="X.onnx", help="default: MODEL_PREFIX-NNNN.onnx")
    parser.add_argument("--overwrite", action="store_true", help="replace the file at --out")
    args = parser.parse_args()
    args.out = args.out or f"{args.model_prefix}-{args.load_epoch:04d}.onnx"
    files.check_is_local(args.out, "--out")
    return args


def main() -> None:
    """Check everything, convert, compare, write."""
    args = parse_args()
    onnx_writer.check_packages()
    if os.path.exists(args.out) and not args.overwrite:
        raise UserError(f"--out {args.out}: already exists; choose another, or pass --overwrite")
    where = args.model_prefix, args.load_epoch
    config, (symbol, *weights) = quantization.load_float32(*where, ", which has no ONNX form")
    images = compare.real_images(args, config)

    model = onnx_writer.convert(
        compare.without_training(symbol),
        *weights,
        config["args"]["image_shape"],
        None if args.dynamic_batch else args.batch_size,
    )
    for key, value in onnx_writer.metadata(config).items():
        model.metadata_props.add(key=key, value=value)
    content = model.SerializeToString()
    differences = onnx_writer.differences(
        content,
        images,
        compare.probabilities(symbol, *weights, images),
        _BATCH_SIZES if args.dynamic_batch else [args.batch_size],
    )
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    with files.atomic(args.out) as temporary, open(temporary, "wb") as file:
        file.write(content)

    batch = "any batch size" if args.dynamic_batch else f"batch size {args.batch_size}"
    print(f"{args.out}: {len(content) / 1e6:.1f} MB, {batch}")
    for engine, largest in differences.items():
        print(f"{engine} differs from MXNet by at most {largest:.1e} on {len(images)} images")


if __name__ == "__main__":
    cli.run(main)
