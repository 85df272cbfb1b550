"""A training run's output: a bar on a terminal, plain lines elsewhere, and a file of JSON lines."""

import contextlib
import json
import os
import sys
import time
from typing import Optional

from tqdm import tqdm

from common import streams


def describe(figures: dict) -> str:
    """{'loss': 1.5, 'top-1': 0.43} -> 'loss 1.500  top-1 43.0%'."""
    return "  ".join(
        f"{name} {value:.1%}" if name.startswith("top-") else f"{name} {value:.3f}"
        for name, value in figures.items()
    )


class RunLog:
    """Print a run's progress and keep it in ``path``, one JSON object a line."""

    def __init__(self, path: Optional[str] = None, append: bool = False):
        # Line-buffered, so that a killed run loses no line. It stays open for the whole run.
        self._file = open(path, "a" if append else "w", buffering=1) if path else None  # noqa: SIM115
        if path and append:  # what a kill or a full disk has left of a last line goes
            with open(path, "rb") as file:
                os.truncate(path, file.read().rfind(b"\n") + 1)
        self._start = time.monotonic()
        self._told = False  # of lost output

    def event(self, kind: str, **fields) -> None:
        """Add a line to the JSON log: ``{"event": kind, "time": seconds, ...}``."""
        if self._file:
            seconds = round(time.monotonic() - self._start, 3)
            try:
                self._file.write(json.dumps({"event": kind, "time": seconds, **fields}) + "\n")
            except OSError as error:  # no reason to end a training run
                print(
                    f"warning: {self._file.name}: {error.strerror}; nothing more is written to it",
                    file=sys.stderr,
                )
                with contextlib.suppress(OSError):  # Python 3.13 would report the error again later
                    self._file.close()
                self._file = None

    def say(self, text: str) -> None:
        """Print a line, above the progress bar if one is drawn."""
        try:
            tqdm.write(text)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader (tee, less) has gone; the run continues
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        lost = streams.lost()
        if lost and not self._told:
            self._told = True
            self.event("output", lost=lost)


class Progress(contextlib.AbstractContextManager):
    """An epoch's images: a tqdm bar on a terminal, else a line every ``period`` batches.

    ``batches`` and ``done`` (images) count what an earlier run has done of ``epoch``, from 1 on.
    """

    def __init__(
        self,
        log: RunLog,
        title: str,
        images: int,
        period: int,
        batches: int = 0,
        done: int = 0,
        epoch: int = 1,
    ):
        self._log, self._title, self._images, self._period = log, title, images, period
        self._batches, self._done, self._seen = batches, done, done
        self._epoch, self._since = epoch, time.monotonic()
        self._bar = tqdm(
            total=images,
            initial=done,
            desc=title,
            unit=" img",
            unit_scale=True,
            dynamic_ncols=True,
            leave=False,
            disable=None,  # where there is no terminal
        )

    def update(self, count: int, **figures) -> None:
        """Count ``count`` more images; ``figures`` are shown, and logged every ``period``."""
        count = min(count, self._images - self._done)  # the last batch may be padded
        self._batches += 1
        self._done += count
        self._bar.set_postfix_str(describe(figures), refresh=False)
        self._bar.update(count)
        if self._batches % self._period:
            return
        now = time.monotonic()
        speed = (self._done - self._seen) / (now - self._since)
        self._seen, self._since = self._done, now
        position = round(self._epoch - 1 + self._done / self._images, 6)  # in epochs
        where = {"epoch": position, "batch": self._batches}
        self._log.event("batch", **where, img_per_s=round(speed, 1), **figures)
        if self._bar.disable:
            left = (self._images - self._done) / speed
            self._log.say(
                f"{self._title}  {self._done}/{self._images}  {describe(figures)}"
                f"  {speed:.0f} img/s  {left:.0f} s left"
            )

    def __exit__(self, *_error):
        """Remove the bar."""
        self._bar.close()


class Forecast:
    """Says once, by the speed of a run's first batches, how long the rest of it takes here.

    The first two batches are not measured: they allocate memory and choose algorithms.
    """

    def __init__(self, log: RunLog, images: int, batch_size: int, title: str):
        """``images``: that are left to train; ``title``: what they are, such as '3 epochs'."""
        self._log, self._images, self._batch_size, self._title = log, images, batch_size, title
        self._count, self._seconds = -2, 0.0  # batches, and how long those from 0 on took
        self._said = False

    def update(self, seconds: float) -> None:
        """Count one more batch, which took so long."""
        self._count += 1
        if self._said or self._count <= 0:
            return
        self._seconds += seconds
        if self._count < 20 and self._seconds < 10:
            return
        self._said = True
        speed = self._count * self._batch_size / self._seconds
        whole = self._images / speed
        self._log.event("forecast", img_per_s=round(speed, 1), seconds=round(whole))
        self._log.say(
            f"about {duration(whole)} for {self._title} at {speed:.0f} img/s,"
            " validation not counted"
        )


def duration(seconds: float) -> str:
    """'50 seconds', '12 minutes', '31 hours'."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
