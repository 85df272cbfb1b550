"""What a study will do before it does it: the checks, the runs and the time they take here."""

import os
import shutil
from typing import Callable, Dict, List, Sequence

from common.cli import UserError
from common.io.history import log_path, read_history
from common.io.log import duration
from common.records.scan import Records, scan_records

from .definition import Study
from .folder import Folder, Run
from .process import speed

_SCORED = 1 / 3  # of the time that an image takes in training: forward without backward
_START = 10.0  # seconds: two processes that import MXNet and build the network


def check_records(study: Study) -> Dict[str, Records]:
    """The scanned record files of a study.

    UserError if one is missing or damaged, two are the same, or they have other classes.
    """
    if not os.path.exists(study.records["holdout"]):
        raise UserError(
            f"{study.records['holdout']}: not there; rates are chosen on images that are not in"
            f" {study.records['train']}: data/README.md says how to set them apart (--holdout)"
        )
    found = {name: scan_records(path) for name, path in study.records.items()}
    if len({os.path.realpath(path) for path in study.records.values()}) < len(found):
        raise UserError(f"{study.path}: records: two of them are the same file")
    for records in found.values():
        if records.classes != found["train"].classes:
            raise UserError(f"{records.path}: has other classes than {found['train'].path}")
    return found


def check_room(folder: Folder, left: Sequence[Run], size_of: Callable[[str], int]) -> None:
    """Raise UserError if the disk has no room for the checkpoints of the runs that are left.

    ``size_of`` gives the bytes of a variant's weights. A checkpoint has them twice, with momentum.
    """
    sizes = {run: 2 * size_of(run.variant) for run in left}
    kept = sum(size for run, size in sizes.items() if not run.is_trial)
    needed = kept + 2 * max(sizes.values(), default=0)  # the best, the newest and the next one
    above = os.path.abspath(folder.path)
    while not os.path.isdir(above):
        above = os.path.dirname(above)
    free = shutil.disk_usage(above).free
    if free < needed:
        raise UserError(
            f"--out {folder.path}: needs {needed / 1e9:.1f} GB for checkpoints, and"
            f" {free / 1e9:.1f} GB are free there; make room, or give a folder on another disk"
        )


def describe(folder: Folder, runs: Sequence[Run], records: Dict[str, Records]) -> str:
    """The runs, a line each, and what those that are left take together, here."""
    counts = {name: len(found) for name, found in records.items()}
    speeds = {variant: _speed(folder, variant, runs, counts) for variant in folder.study.variants}
    width = max(len(run.name) for run in runs)
    lines: List[str] = []
    left, ended = 0.0, 0
    for run in runs:
        result = folder.result(run)
        ended += result is not None
        seconds = _seconds(folder.study, run, counts, speeds[run.variant])
        left += 0 if result else seconds
        state = "ended: its loss diverged" if result and "diverged" in result else "finished"
        lines.append(f"{run.name:{width}}  {state if result else 'about ' + duration(seconds)}")
    lines.append(f"{len(runs)} runs, {ended} ended; the others take about {duration(left)} here")
    return "\n".join(lines)


def _speed(folder, variant, runs, counts):
    """Images a second, by the logs of the variant's runs, else by training a few batches."""
    logs = [log_path(folder.prefix(run)) for run in runs if run.variant == variant]
    epochs = [e for log in filter(os.path.exists, logs) for e in read_history(log).epochs.values()]
    if epochs:
        return epochs[-1]["img_per_s"]
    print(f"timing {variant}", flush=True)
    study, settings = folder.study, folder.study.settings(variant)
    flags = [*study.flags, *study.variants[variant], "--data-train", study.records["train"]]
    return speed(flags, variant, counts["train"], settings.batch_size, settings.lr)


def _seconds(study, run, counts, img_per_s):
    """How long a run takes from its beginning."""
    settings = study.settings(run.variant, run.is_trial)
    images = (settings.num_examples or counts["train"]) * settings.num_epochs
    scored = counts["holdout"]
    if not run.is_trial:
        scored = counts["test"] + scored * settings.num_epochs
    return (images + scored * _SCORED) / img_per_s + _START
