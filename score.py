"""Measure how good a checkpoint is on a record file.

    python score.py --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3 --data-val val.rec

Each image counts exactly once, as its centre crop or as the average over ten crops. Size, mean and
classes come from the checkpoint's own record of how it was trained. float32 and int8 checkpoints
are scored alike.
"""

import argparse
import json
import os
import time

from common import cli
from common.checkpoint import store
from common.checkpoint.config import config_path, versions
from common.cli import UserError
from common.draw import style
from common.evaluate import calibration, confusion, network
from common.evaluate.evaluator import Evaluator, check_crops
from common.evaluate.scores import resolve_top_k
from common.input import pipeline
from common.input.preparation import Preparation
from common.io import cpus, files
from common.runtime import devices


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = cli.ArgumentParser(__doc__)
    store.add_args(parser)
    add = parser.add_argument
    add("--int8", action="store_true", help="score MODEL_PREFIX-int8, which quantize.py makes")
    add("--data-val", required=True, metavar="X.rec", help="images to score it on")
    add(
        "--crops",
        type=int,
        choices=[1, 10],
        default=1,
        help="of an image: the centre, or the 2012 average over corners, centre, and their mirror"
        " images, of the square in the middle of the resized image",
    )
    add("--batch-size", type=cli.positive_int, default=32, help="over all devices")
    add("--top-k", type=cli.positive_int, help="accuracy reported; default: 5")
    add("--gpus", type=cli.integers, help="such as 0,1; default: the CPU")
    network.add_dtype(parser)
    add("--data-nthreads", type=cli.positive_int, default=cpus.available(), help="decoding threads")
    add("--per-class", action="store_true", help="print a line for each class, too")
    add(
        "--confusion",
        type=cli.new_file_of(".csv", *style.FORMATS),
        nargs="+",
        default=[],
        metavar="X.csv|X.png|X.svg",
        help="write which class is taken for which, as a table, a picture or both",
    )
    add(
        "--fit-temperature",
        action="store_true",
        help="fit the temperature that predict.py --threshold uses, kept with the checkpoint;"
        " --data-val has to be images that it was not trained on",
    )
    add("--json", type=cli.new_file, metavar="X.json", help="write all figures, each class's too")
    return parser.parse_args()


def find_int8(prefix: str, epoch: int) -> str:
    """The prefix of the int8 form of a checkpoint; UserError if there is none."""
    quantized = f"{prefix}-int8"
    if not os.path.isfile(store.params_path(quantized, epoch)):
        raise UserError(
            f"--int8: {store.params_path(quantized, epoch)} is not there; make it with python"
            f" quantize.py --model-prefix {prefix} --load-epoch {epoch} --data-calib TRAIN.rec"
        )
    return quantized


def as_text(scores: confusion.Confusion) -> str:
    """The loss, the accuracies with their 95% intervals, and the mean recall."""
    parts = [f"{scores.count} images", f"loss {scores.loss:.4f}"]
    for name, (low, high) in scores.intervals().items():
        accuracy = scores.figures()[name]
        parts.append(f"{name} {accuracy:.2%} (95%: {100 * low:.2f} to {100 * high:.2f})")
    return "  ".join([*parts, f"mean recall {confusion.mean_recall(scores):.2%}"])


def calibrate(args: argparse.Namespace, config: dict, answers: calibration.Answers) -> dict:
    """The calibration error, without and with the temperature, which is fitted if wanted."""
    said, labels = answers.all()
    temperature = calibration.temperature(config, args.load_epoch)
    if args.fit_temperature:
        temperature = calibration.fit_temperature(said, labels)
        kept = {"epoch": args.load_epoch, "temperature": temperature}
        kept.update(data_val=args.data_val, images=answers.count)
        files.save_json(config_path(args.model_prefix), {**config, "calibration": kept})
    after = calibration.calibration_error(calibration.scaled(said, temperature), labels)
    return {
        "temperature": temperature,
        "calibration_error": calibration.calibration_error(said, labels),
        "calibration_error_with_temperature": after,
    }


def as_json(args: argparse.Namespace, scores: confusion.Confusion, calibrated: dict) -> dict:
    """All figures, by the names under which --json writes them."""
    return {
        "checkpoint": store.params_path(args.model_prefix, args.load_epoch),
        "data_val": args.data_val,
        "crops": args.crops,
        "images": scores.count,
        **scores.figures(),
        "right": scores.right(),
        "interval95": scores.intervals(),
        "mean_recall": confusion.mean_recall(scores),
        **calibrated,
        "per_class": [{**row._asdict(), "top-1": row.top1} for row in confusion.per_class(scores)],
        "versions": versions(),
    }


def main() -> None:
    """Check everything, score, print and write the figures."""
    args = parse_args()
    contexts = devices.contexts(args.gpus)
    if args.batch_size < len(contexts):
        raise UserError(f"--batch-size {args.batch_size}: is fewer than one image a device")
    if any(path.lower().endswith(style.FORMATS) for path in args.confusion):
        style.check("--confusion")
    if args.int8:
        args.model_prefix = find_int8(args.model_prefix, args.load_epoch)
    config, (symbol, *weights) = network.load(args.model_prefix, args.load_epoch, contexts)
    network.check_dtype(args.dtype, symbol, contexts)
    preparation = Preparation.from_args(config["args"])
    check_crops(args.crops, preparation)
    classes = network.class_names(config)
    top_k = resolve_top_k(args.top_k, len(classes))
    records = pipeline.checked_records(args.data_val, len(classes), classes=config["classes"])

    started = time.monotonic()
    reading = preparation, args.batch_size, args.data_nthreads, args.crops, args.dtype
    wanted = args.fit_temperature or calibration.temperature(config, args.load_epoch)
    scores = (calibration.Answers if wanted else confusion.Confusion)(top_k, classes)
    Evaluator(symbol, contexts, records, *reading).evaluate(*weights, scores)
    speed = scores.count / (time.monotonic() - started)
    calibrated = calibrate(args, config, scores) if wanted else {}

    for path in args.confusion:
        confusion.write(scores, path)
    if args.json:
        with files.atomic(args.json) as temporary, open(temporary, "w") as file:
            json.dump(as_json(args, scores, calibrated), file, indent=1)
            file.write("\n")
    if args.per_class:
        print(confusion.table(scores) + "\n")
    if calibrated:
        print(calibration.describe(calibrated, args.fit_temperature))
    print(f"{as_text(scores)}  |  {speed:.0f} img/s")


if __name__ == "__main__":
    cli.run(main)
