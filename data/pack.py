"""Pictures encoded on several processes: the engine of the scripts that make record files.

A script gives :func:`encode_all` an ordered stream of (name, label, bytes or path), which is read
lazily and encoded by spawned processes, and writes what comes back in the same order. However many
processes, the result is the same. They never import MXNet.
"""

import argparse
import collections
import contextlib
import ctypes
import functools
import itertools
import multiprocessing
import queue
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from typing import Dict, Iterable, Iterator, List, Optional, Tuple, Union

from tqdm import tqdm

from common import cli
from common.cli import UserError
from common.io import cpus
from common.io.opencv import cv2
from common.records.picture import Unreadable, encode

Item = Tuple[str, int, Union[bytes, str]]  # name for the report, label, picture's bytes or path

_CHUNK = 16  # pictures a task: enough that sending them costs little beside decoding them
_AHEAD = 4  # tasks for each process that may be read and not yet written


def encode_all(items: Iterable[Item], workers: int, **encoding) -> Iterator[tuple]:
    """Yield (name, label, bytes or Unreadable) for each of ``items``, in order.

    Args:
        items: read lazily, no further ahead than ``64 * workers`` pictures.
        workers: processes. They end when the generator does; close it if you leave it early.
        encoding: ``resize``, ``quality``, ``encoding`` of :func:`data.picture.encode`.

    Raises:
        UserError: a process died.
    """
    items = iter(items)
    with _processes(workers, encoding) as submit:
        pending = collections.deque()
        for chunk in iter(lambda: list(itertools.islice(items, _CHUNK)), []):
            pending.append((chunk, submit([source for _, _, source in chunk])))
            if len(pending) == _AHEAD * workers:
                yield from _collect(*pending.popleft())
        while pending:
            yield from _collect(*pending.popleft())


def _collect(chunk, future):
    try:
        images = future.result()
    except (EOFError, OSError):
        raise UserError(
            f"a process died (killed? out of memory?) somewhere from {chunk[0][0]} to"
            f" {chunk[-1][0]}; run it again, with fewer --workers if memory is short"
        )
    for (name, label, _), image in zip(chunk, images):
        yield name, label, image


@contextlib.contextmanager
def _processes(count, encoding):
    """Yield ``submit(sources)``, which gives a future: the sources encoded by one of ``count``.

    Not concurrent.futures' process pool: its processes share one pipe for their results, so that
    one which is killed while it writes there leaves the reader waiting for ever. Here each has a
    thread of its own that waits for it, and a pipe that breaks when either end dies.
    """
    processes, idle = [], queue.SimpleQueue()
    with ThreadPoolExecutor(count) as threads:
        try:
            for _ in range(count):
                process, pipe = _start(encoding)
                processes.append(process)
                idle.put(pipe)
            yield functools.partial(threads.submit, _call, idle)
        finally:
            for process in processes:
                process.terminate()  # whatever a thread still waits for ends with its process
                process.join()


def _start(encoding):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, encoding), daemon=True)
    resource_tracker.ensure_running()  # on its first start it would let Ctrl-C in again
    # The process inherits a blocked Ctrl-C: the parent alone answers it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()  # now only the process holds that end
    return process, ours


def _call(idle, sources):
    pipe = idle.get()
    try:
        pipe.send(sources)
        return pipe.recv()
    finally:
        idle.put(pipe)


def _serve(pipe, encoding):
    cv2.setNumThreads(1)
    _keep_freed_memory()
    with contextlib.suppress(EOFError, OSError):  # the parent has gone
        while True:
            pipe.send([_attempt(source, encoding) for source in pipe.recv()])


def _keep_freed_memory():
    """Let glibc keep what is freed for the next picture: returning it costs a third of the time."""
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, 1 << 28)
        mallopt(mmap_threshold, 1 << 25)


def _attempt(source, encoding):
    try:
        if isinstance(source, str):
            with open(source, "rb") as file:
                source = file.read()
        return encode(source, **encoding)
    except OSError as error:
        return Unreadable(error.strerror)
    except Unreadable as error:
        return error


def report(bad: List[Tuple[str, str]], written: Dict[str, int], skip_bad: bool) -> None:
    """Name the unreadable pictures on stderr; refuse them unless ``skip_bad``.

    ``written`` maps each output's prefix to its number of records; none may be empty.
    """
    for name, cause in bad:
        print(f"unreadable: {name}: {cause}", file=sys.stderr)
    count = f"{len(bad)} of {len(bad) + sum(written.values())} images cannot be read"
    if bad and not skip_bad:
        raise UserError(
            f"{count} (named above); mend or remove them, or leave them out with --skip-bad"
        )
    for prefix, records_written in written.items():
        if not records_written:
            raise UserError(f"{prefix}.rec: there is no readable image to write")
    if bad:
        print(f"{count} and were left out", file=sys.stderr)


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
        if now - shown >= 10:
            shown = now
            print(f"{title}: {done}{of} images, {done / (now - start):.0f} img/s", file=sys.stderr)
    seconds = time.monotonic() - start
    rate = f"{done / seconds:.0f} img/s, {seconds:.1f} s"
    print(f"{title}: {done}{of} images, {rate}", file=sys.stderr)


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every packing script has."""
    add = parser.add_argument
    add(
        "--resize",
        type=_size,
        default=256,
        help="scale the short side down to this many pixels, never up; 0 keeps every size",
    )
    add("--quality", type=_quality, default=95, help="of a JPEG, 1 to 100")
    add("--encoding", choices=[".jpg", ".png"], default=".jpg", help="of the stored images")
    add("--workers", type=cli.positive_int, default=cpus.available(), help="processes")
    add("--skip-bad", action="store_true", help="leave unreadable images out; they are still named")
    add("--overwrite", action="store_true", help="replace output that is there already")


def options(args: argparse.Namespace) -> dict:
    """Those values of :func:`add_args` that :func:`encode_all` takes."""
    return {name: getattr(args, name) for name in ("resize", "quality", "encoding", "workers")}


def _size(text):
    return 0 if text == "0" else cli.positive_int(text)


def _quality(text):
    value = cli.positive_int(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"'{text}' is not a quality from 1 to 100")
    return value
