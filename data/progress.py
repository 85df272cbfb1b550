"""How far a job is: the one progress display of data/."""

import sys
import time
from typing import Iterable, Iterator, Optional

from tqdm import tqdm

_PERIOD = 10  # seconds from line to line where there is no terminal


def progress(results: Iterable, title: str, total: Optional[int]) -> Iterator:
    """Pass ``results`` on, showing images a second: a bar on a terminal, else a line each 10 s."""
    if sys.stderr.isatty():
        yield from tqdm(results, title, total, unit=" img", dynamic_ncols=True)
        return
    start = shown = time.monotonic()
    of = "" if total is None else f"/{total}"
    done = 0
    for done, result in enumerate(results, 1):  # noqa: B007
        yield result
        now = time.monotonic()
        if now - shown >= _PERIOD:
            shown = now
            print(f"{title}: {done}{of} images, {done / (now - start):.0f} img/s", file=sys.stderr)
    seconds = time.monotonic() - start
    rate = f"{done / seconds:.0f} img/s, {seconds:.1f} s"
    print(f"{title}: {done}{of} images, {rate}", file=sys.stderr)
