"""Training runs as curves: runs that differ in nothing but their seed are one curve."""

from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from common.io.history import History, windows

from .curves import Curve, Panel, curves

_POINTS = 100  # of a curve, so that batches do not hide what epochs do
# Arguments that make no other curve: where and how a run went, not what it trained.
_ALIKE = (
    *("time", "batch", "seed", "model_prefix", "resume", "load_epoch", "overwrite"),
    *("save_period", "save_minutes", "keep", "disp_batches", "verbose", "data_nthreads", "monitor"),
)
Group = Tuple[str, List[History]]


def groups(runs: Sequence[Tuple[str, History]]) -> List[Group]:
    """Runs and their names -> the groups that are a curve each, and a label for each.

    The label says in which arguments a group differs from the others. A lone group has the name of
    its first run.
    """
    found: Dict[str, Tuple[dict, str, List[History]]] = {}
    for name, run in runs:
        args = {
            key: value for key, value in run.args.items() if key not in _ALIKE and value is not None
        }
        found.setdefault(repr(sorted(args.items())), (args, name, []))[2].append(run)
    every = [args for args, _, _ in found.values()]
    keys = [
        key
        for key in dict.fromkeys(key for args in every for key in args)
        if any(args.get(key) != every[0].get(key) for args in every)
    ]
    labels = [
        ", ".join(f"{key.replace('_', '-')} {args.get(key)}" for key in keys) or name
        for args, name, _ in found.values()
    ]
    return list(zip(labels, (members for _, _, members in found.values())))


def figure(grouped: Sequence[Group]) -> Any:
    """A matplotlib figure: the runs' loss and top-1 by epochs; one at least has logged a batch."""
    validated = any(
        "val" in part for _, runs in grouped for r in runs for part in r.epochs.values()
    )
    panels = []
    for name, title in (("loss", "loss"), ("top-1", "accuracy (top-1)")):
        drawn = []
        for label, runs in grouped:
            drawn.append(Curve(label, *_training(runs, name), dashed=validated))
            drawn.append(Curve(label, *_epochs(runs, "val", name)))
        panels.append(Panel(title, [one for one in drawn if len(one.x)], percent=name != "loss"))
    notes = ["lines: validation images, dashed: training images"] if validated else []
    most = max(len(runs) for _, runs in grouped)
    if most > 1:
        notes.append(f"mean and range of up to {most} seeds")
    return curves(panels, "epochs", "; ".join(notes))


def _epochs(runs, part, name):
    """x, and a row for each run, of figures that epochs have."""
    numbers = sorted({number for run in runs for number, has in run.epochs.items() if part in has})
    rows = [
        [run.epochs.get(number, {}).get(part, {}).get(name, np.nan) for number in numbers]
        for run in runs
    ]
    return numbers, np.array(rows, float)


def _training(runs, name):
    """The same of the training images: between epochs, too, where the logs have it."""
    listed = [np.array(windows(run, name), float).reshape(-1, 3) for run in runs]
    if any(len(one) == 0 for one in listed):
        return _epochs(runs, "train", name)
    first = listed[0][:, 0]
    if len(first) <= _POINTS and all(np.array_equal(one[:, 0], first) for one in listed):
        return first, np.array([one[:, 1] for one in listed])
    end = max(one[-1, 0] for one in listed)
    edges = np.linspace(0, end * (1 + 1e-9), min(_POINTS, max(map(len, listed))) + 1)
    rows = []
    for at, mean, count in (one.T for one in listed):
        weights = np.histogram(at, edges, weights=count)[0]
        total = np.histogram(at, edges, weights=count * mean)[0]
        rows.append(np.where(weights, total / np.where(weights, weights, 1), np.nan))
    return (edges[1:] + edges[:-1]) / 2, np.array(rows)
