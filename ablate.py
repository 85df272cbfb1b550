"""Train the variants of a study, one after another, and report how they compare.

    python ablate.py studies/cifar10.json --out checkpoints/ablation --plan
    python ablate.py studies/cifar10.json --out checkpoints/ablation
    python ablate.py studies/cifar10.json --out checkpoints/ablation --report results

Each run is a train_imagenet.py with a folder of its own. First, short runs try the study's rates
for each variant, scored on the holdout. Then each variant is trained with its best rate from each
seed, and scored on the test images once. Killed and started again, it goes on where it was.
"""

import argparse
import math
import os
import sys
from typing import Dict, List

import symbols
from common import cli
from common.cli import UserError
from common.draw import style
from common.draw.study import study_chart
from common.io.lock import lock
from common.io.signals import Stop
from common.records.scan import Records
from common.study import definition, plan, process, report
from common.study.definition import Study
from common.study.folder import Folder, Run, finals, trials

_FLOAT32 = 4  # bytes


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("study", metavar="STUDY.json", help="common/study/definition.py says what it holds")
    add("--out", required=True, metavar="FOLDER", help="of the runs")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="only print the runs and their time here")
    what.add_argument(
        "--report",
        metavar="PREFIX",
        type=report_prefix,
        help="train nothing; write the figures of ended runs to PREFIX.json, .csv and .png",
    )
    return parser.parse_args()


def report_prefix(text: str) -> str:
    """An argparse type: what the names of new files begin with."""
    for extension in (".json", ".csv", ".png"):
        cli.new_file(text + extension)
    return text


def weights_size(study: Study, records: Records) -> Dict[str, int]:
    """About how many bytes each variant's weights have: those of its network without options."""
    sizes = {}
    for variant in study.variants:
        settings = study.settings(variant)
        symbol = symbols.get_symbol(settings.network, len(records.classes or range(10)))
        with cli.blaming(f"{study.path}: {variant}:"):
            symbols.check_image_shape(symbol, settings.image_shape)
        shapes, _, _ = symbol.infer_shape(data=(1, *settings.image_shape))
        sizes[variant] = _FLOAT32 * sum(math.prod(shape) for shape in shapes)
    return sizes


def run_all(folder: Folder, runs: List[Run]) -> int:
    """Do what is left of the runs, the trials before the final ones. Returns the exit code."""
    failed = []
    with Stop(print) as stop:
        stop.unsaved = True
        for number, run in enumerate(runs, 1):
            if folder.result(run):
                continue
            if not run.is_trial and run.variant not in folder.rates():
                failed.append(f"{run.name}: not run, since no rate could be chosen")
                continue
            if not run.is_trial:
                folder.keep_rates()
            print(f"run {number} of {len(runs)}, {run.name}", flush=True)
            said = process.perform(folder, run, stop)
            if said:
                failed.append(f"{run.name}: {said}")
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def draw(results: dict, path: str) -> None:
    """Write the study's chart, or a line that says why there is none."""
    if not any("top-1" in figures for figures in results["variants"].values()):
        print(f"{path}: no final run has ended, so nothing to draw")
        return
    try:
        style.check(path)
    except UserError as error:
        print(error)
        return
    style.write(study_chart(results), path)
    print(f"wrote {path}")


def main() -> int:
    """Check everything, then say what will be done, then do it."""
    args = parse_args()
    study = definition.read(args.study)
    folder = Folder(study, args.out)
    folder.check()
    if args.report:
        if os.path.realpath(f"{args.report}.json") in map(os.path.realpath, folder.files()):
            raise UserError(f"--report {args.report}: {args.report}.json is a file of the study")
        if not os.path.isdir(args.out):
            raise UserError(f"--out {args.out}: there is no such folder, so nothing to report")
        results = report.collect(folder)
        print(report.table(results))
        print("wrote " + " and ".join(report.write(results, args.report)))
        draw(results, f"{args.report}.png")
        return 0
    records = plan.check_records(study)
    runs = [*trials(study), *finals(study)]
    left = [run for run in runs if not folder.result(run)]
    plan.check_room(folder, left, weights_size(study, records["train"]).__getitem__)
    print(plan.describe(folder, runs, records), flush=True)
    if args.plan:
        return 0
    with lock(os.path.join(args.out, "study"), "--out"):
        folder.begin()
        code = run_all(folder, runs)
    print(report.table(report.collect(folder)))
    return code


if __name__ == "__main__":
    cli.run(main)
