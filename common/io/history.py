"""Reads what ``common/io/log.py`` has written of a training run: PREFIX-log.jsonl."""

import json
from typing import Dict, Iterator, List, NamedTuple, Tuple

from common.cli import UserError

Figures = Dict[str, float]  # such as loss and top-1


class History(NamedTuple):
    """A training run so far. What a resumed run did again counts once."""

    args: dict  # the last start's
    epochs: Dict[int, dict]  # number -> {"train": Figures, "val": Figures, "img_per_s": ...}
    batches: Dict[Tuple[int, int], Tuple[float, Figures]]
    """(epoch, batch of it) -> position in epochs, and means over the epoch up to there."""


def log_path(prefix: str) -> str:
    """Where a run that saves at ``prefix`` keeps its log."""
    return f"{prefix}-log.jsonl"


def read_history(path: str) -> History:
    """Read a run's log, without a last line that a kill has cut off; UserError if it is no log."""
    history = History({}, {}, {})
    for event in _events(path):
        kind = event.pop("event")
        if kind in ("start", "resume"):
            history.args.clear()
            history.args.update(event)
        elif kind == "epoch":
            history.epochs[event.get("epoch", 0)] = event
        elif kind == "batch" and "epoch" in event:  # the first versions wrote none
            position = event.pop("epoch")
            number = -int(-position // 1)
            history.batches[number, event["batch"]] = position, event
    if not history.args and (history.epochs or history.batches):
        raise UserError(f"{path}: is not a training run's log, which begins with an event 'start'")
    return history


def _events(path: str) -> Iterator[dict]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                event = json.loads(line)
                event["event"]
            except (ValueError, LookupError, TypeError):
                if not line.endswith("\n"):  # the last one
                    return
                raise UserError(f"{path}: line {number} is not an event of a training run's log")
            yield event


def windows(history: History, name: str) -> List[Tuple[float, float, int]]:
    """A figure of the training images between two lines of the log: for each such window, in order,
    its position in epochs (the middle), the mean, and the batches.
    """
    found = []
    before, done, total = 0, 0, 0.0  # epoch, and batches and their sum so far
    for (epoch, batch), (position, figures) in sorted(history.batches.items()):
        if name not in figures:
            continue
        if epoch != before:
            before, done, total = epoch, 0, 0.0
        count, added = batch - done, figures[name] * batch - total
        if count > 0:
            part = (position - (epoch - 1)) / batch  # of an epoch that a batch is
            found.append((position - part * count / 2, added / count, count))
        done, total = batch, figures[name] * batch
    return found
