"""Work divided among spawned processes, with its results in order."""

import collections
import contextlib
import ctypes
import functools
import itertools
import multiprocessing
import os
import queue
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from typing import Any, Callable, Iterable, Iterator, Tuple

from common.cli import UserError
from common.io.limits import limit_reached
from common.io.opencv import cv2

_CHUNK = 16  # items a task: enough that sending them costs little compared with decoding pictures
_AHEAD = 4  # tasks for each process that may be read and whose results are not yet taken


def run(
    function: Callable[[Any], Any],
    items: Iterable,
    workers: int,
    flag: str,
    name: Callable[[Any], str],
) -> Iterator[Tuple[Any, Any]]:
    """Yield (item, function(item)) for each of ``items``, in order, from so many processes.

    These end when the generator does: close it if you leave it early. ``items`` are read lazily, no
    further ahead than ``64 * workers``; function, items and results have to be picklable. UserError
    if a process died or cannot be started, which ``name(item)`` and ``flag``, the command line's
    for ``workers``, explain, or if ``function`` raised it.
    """
    items = iter(items)
    with _processes(workers, function, flag) as submit:
        pending = collections.deque()
        for chunk in iter(lambda: list(itertools.islice(items, _CHUNK)), []):
            pending.append((chunk, submit(chunk)))
            if len(pending) == _AHEAD * workers:
                yield from _collect(*pending.popleft(), flag, name)
        while pending:
            yield from _collect(*pending.popleft(), flag, name)


def _collect(chunk, future, flag, name):
    try:
        results = future.result()
    except (EOFError, OSError):
        raise UserError(
            f"a process died (killed? out of memory?) somewhere from {name(chunk[0])} to"
            f" {name(chunk[-1])}; run it again, with a lower {flag} if memory is short"
        )
    if isinstance(results, UserError):
        raise results
    return zip(chunk, results)


@contextlib.contextmanager
def _processes(count, function, flag):
    """Yield ``submit(chunk)``, which gives a future: the results of one of ``count`` processes.

    Not concurrent.futures' process pool: its processes share one pipe for their results, so one
    that is killed while it writes there leaves the reader waiting for ever. It also needs
    semaphores in /dev/shm, which some containers lack. Here each process has a thread of its own
    that waits for it, and a pipe that breaks when either end dies.
    """
    processes, idle = [], queue.SimpleQueue()
    with ThreadPoolExecutor(count) as threads:
        try:
            for _ in range(count):
                process, pipe = _start(function, flag)
                processes.append(process)
                idle.put(pipe)
            yield functools.partial(_submit, threads, idle, flag)
        finally:
            for process in processes:
                process.terminate()  # whatever a thread still waits for ends with its process
                process.join()


def _submit(threads, idle, flag, chunk):
    try:
        return threads.submit(_call, idle, chunk)
    except RuntimeError as error:  # can't start new thread
        raise UserError(f"{flag}: {error}; lower it, or raise ulimit -u")


def _start(function, flag):
    context = multiprocessing.get_context("spawn")
    # The process inherits a blocked Ctrl-C: the parent alone answers it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        resource_tracker.ensure_running()  # its first start would unblock Ctrl-C
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        process.start()
    except OSError as error:
        raise UserError(f"{flag}: a process cannot be started: {limit_reached(error)}")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()  # now only the process holds that end
    return process, ours


def _call(idle, chunk):
    pipe = idle.get()
    try:
        pipe.send(chunk)
        return pipe.recv()
    finally:
        idle.put(pipe)


def _serve(pipe, function):
    cv2.setNumThreads(1)
    _keep_freed_memory()
    _silence_decoders()
    with contextlib.suppress(EOFError, OSError):  # the parent has gone
        while True:
            pipe.send(_results(function, pipe.recv()))


def _results(function, chunk):
    try:
        return [function(item) for item in chunk]
    except UserError as error:
        return error


def _keep_freed_memory():
    """Let glibc keep what is freed for the next picture: returning it costs a third of the time."""
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, 1 << 28)
        mallopt(mmap_threshold, 1 << 25)


def _silence_decoders():
    """Drop what C libraries write to stderr, such as libpng's warnings; Python's own stays.

    Only a worker process may do this: it has one thread and shares its stderr with no other code.
    """
    sys.stderr = open(os.dup(2), "w", buffering=1)  # noqa: SIM115 it lives as long as the process
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
