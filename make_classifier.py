"""Make a classifier of a folder of photographs.

    python make_classifier.py photos/ --out mine --minutes 30
    python make_classifier.py photos/ --out mine --from checkpoints/alexnet-0012.params

The folder holds a folder for each class, and nothing in it is changed. A fifth of each class is set
apart, and what was learned of the rest is scored on it. Each step is a command of this project,
printed before it runs: packing, training, scoring, drawing. Killed and started again with the same
flags, it goes on where it was.
"""

import argparse
import os
import re
import shlex
import sys
from typing import Dict, List, Optional, Tuple

from common import cli
from common.cli import UserError
from common.draw import style
from common.io.files import check_is_local, read_json, save_json
from common.io.lock import lock
from common.io.signals import Stop
from common.records.scan import scan_records
from common.study.process import execute, script, speed
from common.train import recipes

_RECIPE = recipes.recipe("alexnet", "photos").settings
_LEAST = 10  # images of a class: two are set apart
_BEFORE_PLAN = ("photos-", "plan.json.", "classifier.lock")  # files that a kill may leave
_SIDES = (227, 195, 163, 131, 99, 67)  # px of the input: the sizes that leave AlexNet's graph whole
_TIMED_SIDES = (67, 131)
_EPOCHS, _MOST_EPOCHS = 30, 150  # a larger side has to leave time for the first; the most


def parse_args() -> argparse.Namespace:
    """The command line; ``start``: prefix and number of --from; ``plan``: the path of plan.json;
    ``asked``: what that keeps.
    """
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("photos", metavar="PHOTOS", help="holds a folder for each class")
    add("--out", required=True, metavar="FOLDER", help="of all that is made")
    add("--minutes", type=cli.number(above=0), default=30, help="of training, about")
    add(
        "--from",
        dest="start",
        type=_checkpoint,
        metavar="PREFIX-NNNN.params",
        help="fine-tune this checkpoint, with its preparation of images",
    )
    args = parser.parse_args()
    inside = os.path.join(os.path.realpath(args.photos), "")
    if os.path.join(os.path.realpath(args.out), "").startswith(inside):
        raise UserError(f"--out {args.out}: is inside {args.photos}, where nothing is changed")
    check_is_local(args.out, "--out")
    args.plan = os.path.join(args.out, "plan.json")
    args.asked = {"photos": os.path.realpath(args.photos), "minutes": args.minutes}
    args.asked["from"] = args.start and list(args.start)
    return args


def _checkpoint(text) -> Tuple[str, str]:
    match = re.fullmatch(r"(.+)-(\d{4,})\.params", text)
    if not match or not os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"'{text}' is no checkpoint's file PREFIX-NNNN.params")
    return match[1], str(int(match[2]))


def packing(args: argparse.Namespace) -> List[str]:
    """The command that checks and packs the photographs."""
    flags = ["--val-fraction", "0.2", "--keep-alike", "--least", str(_LEAST)]
    flags += ["--skip-bad", "--overwrite"]
    python, module = os.path.relpath(sys.executable), ["-m", "data.folder"]
    return [python, *module, args.photos, os.path.join(args.out, "photos"), *flags]


def start_flags(args: argparse.Namespace, side: Optional[int]) -> List[str]:
    """Those that training begins with; ``side``: of the input, None for that of --from."""
    flags = ["--dataset", "photos", "--data-train", os.path.join(args.out, "photos-train.rec")]
    if args.start:
        flags += ["--pretrained", args.start[0], "--pretrained-epoch", args.start[1]]
    if side:  # of a picture's short side 113 of 128 are seen
        flags += ["--image-shape", f"3,{side},{side}", "--resize", str(round(side * 128 / 113))]
    return flags


def trained_on(args: argparse.Namespace) -> int:
    """How many images there are to train on; UserError if they are fewer than a batch."""
    count = len(scan_records(os.path.join(args.out, "photos-train.rec")))
    if count < _RECIPE["batch_size"]:
        raise UserError(
            f"{args.photos}: {count} images to train on are too few; {_RECIPE['batch_size']} are"
            f" needed, and as many more as can be; add some and delete {args.out}"
        )
    return count


def measure(args: argparse.Namespace, images: int) -> Dict[Optional[int], float]:
    """Side of the input -> images a second trained here; None is the side of --from."""
    found = {}
    for side in [None] if args.start else _TIMED_SIDES:
        name = f"input of {side} px" if side else "fine-tuning"
        flags = start_flags(args, side)
        found[side] = speed(flags, name, images, _RECIPE["batch_size"], _RECIPE["lr"])
        print(f"{name}: {found[side]:.0f} img/s here", flush=True)
    if args.start:
        return found
    # The time for an image: a part that all sizes share, and one by the area.
    (small, large), times = _TIMED_SIDES, [1 / found[side] for side in _TIMED_SIDES]
    by_area = max(0.0, times[1] - times[0]) / (large**2 - small**2)
    return {side: 1 / (times[0] + by_area * (side**2 - small**2)) for side in _SIDES}


def choose(
    speeds: Dict[Optional[int], float], images: int, seconds: float
) -> Tuple[Optional[int], int]:
    """The side of the input, of those in ``speeds``, largest first, and the number of epochs.

    The largest with which there is time for enough epochs, else the smallest.
    """
    epochs = {side: int(seconds * rate / images) for side, rate in speeds.items()}
    enough = [side for side, count in epochs.items() if count >= _EPOCHS]
    side = enough[0] if enough else list(speeds)[-1]
    return side, min(max(2, epochs[side]), _MOST_EPOCHS)


def read_plan(args: argparse.Namespace) -> dict:
    """FOLDER/plan.json: what was ``asked`` for, and ``training``, side and epochs; {} without one.

    UserError if the folder holds anything but what the same flags have begun.
    """
    try:
        plan = read_json(args.plan, f"delete {args.out} and start again")
    except FileNotFoundError:
        names = os.listdir(args.out) if os.path.isdir(args.out) else []
        if not all(name.startswith(_BEFORE_PLAN) for name in names):
            raise UserError(f"--out {args.out}: holds other files; give a new folder")
        return {}
    for name, value in args.asked.items():
        before = plan["asked"][name]
        if before != value:
            said = f"was begun with {name} {before}, not {value}; give that, or another --out"
            raise UserError(f"--out {args.out}: {said}")
    return plan


def training(
    args: argparse.Namespace, side: Optional[int], epochs: int, longer: bool = False
) -> List[str]:
    """The command that trains, or goes on where it was; ``longer``: one from there, beside it."""
    net = os.path.join(args.out, "net")
    flags = [*start_flags(args, side), "--data-val", os.path.join(args.out, "photos-val.rec")]
    if longer:
        flags += ["--pretrained", net, "--pretrained-epoch", str(epochs)]
    prefix = os.path.join(args.out, "longer") if longer else net
    flags += ["--num-epochs", str(epochs), "--model-prefix", prefix]
    return script("train_imagenet.py", [*flags, "--resume", "--save-minutes", "2", "--keep", "1"])


def judging(args: argparse.Namespace, epochs: int) -> Tuple[List[str], Optional[List[str]]]:
    """The command that scores what was trained on what was set apart; and one that draws, or None.

    None: matplotlib is not there.
    """

    def of(name):
        return os.path.join(args.out, name)

    net = ["--model-prefix", of("net"), "--load-epoch", str(epochs)]
    net += ["--data-val", of("photos-val.rec")]
    figures = ["--fit-temperature", "--json", of("score.json"), "--confusion", of("confusion.csv")]
    try:
        style.check("confusion.png and mistakes.png")
    except UserError as lacking:
        print(lacking)
        return script("score.py", [*net, *figures]), None
    drawing = script("show.py", ["mistakes", *net, "--out", of("mistakes.png")])
    return script("score.py", [*net, *figures, of("confusion.png")]), drawing


def do(command: List[str], stop: Stop, must: bool = True) -> None:
    """Print a command and run it; end with its code if it fails where it ``must`` not."""
    print(f"\n{shlex.join(command)}", flush=True)
    code = execute(command, None, stop)
    if code and must:
        sys.exit(code if code > 0 else 128 - code)


def main() -> None:
    """Check, then do what is left: pack, time, train, score, draw."""
    args = parse_args()
    read_plan(args)  # what it refuses is refused before the folder is made
    with lock(os.path.join(args.out, "classifier"), "--out"), Stop(print) as stop:
        stop.unsaved = True  # each step saves for itself
        plan = read_plan(args)
        if not plan:
            do(packing(args), stop)
            plan = {"asked": args.asked}
            save_json(args.plan, plan)
        images = trained_on(args)
        if "training" not in plan:
            plan["training"] = choose(measure(args, images), images, 60 * args.minutes)
            save_json(args.plan, plan)
        side, epochs = plan["training"]
        if epochs < _EPOCHS:
            print(f"{epochs} epochs in --minutes {args.minutes:g} here: give more for a better one")
        scoring, drawing = judging(args, epochs)
        do(training(args, side, epochs), stop)
        do(scoring, stop)
        if drawing:
            do(drawing, stop, must=False)  # there may be no mistake to draw
    net = ["--model-prefix", os.path.join(args.out, "net"), "--load-epoch", str(epochs)]
    print("\nName pictures, and say where it is none of the classes:")
    print("  " + shlex.join([*script("predict.py", net), "--threshold", "0.5", "PICTURE"]))
    print("Train on from there, as long again:")
    print("  " + shlex.join(training(args, side, epochs, longer=True)))


if __name__ == "__main__":
    cli.run(main)
