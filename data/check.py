"""Find every fault of a record file, and write one without the faulty records.

    python -m data.check photos.rec --decode
    python -m data.check photos.rec --decode --repair photos-whole

Reads X.rec, X.idx and, for the number of classes, X-classes.txt. A line on stdout for each fault,
and a summary; after damage the search goes on at the next record. With --decode every image is
decoded, too: MXNet shows a cut JPEG as a partly grey picture, and is killed by an image that it
can neither decode nor, therefore, resize. Exit code: 0 without faults, 1 with, 2 if there is
nothing to check.
"""

import functools
import itertools
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Iterator, List, NamedTuple, Optional

import numpy as np
from tqdm import tqdm

from common import cli
from common.cli import ArgumentParser, UserError, run
from common.io import cpus
from common.io.opencv import cv2
from common.records import picture, records
from data import pack

_CHUNK = 64  # images a task


class Record(NamedTuple):
    """A record, or a stretch of the file that should hold one."""

    number: int
    at: int  # offset in bytes
    label: Optional[float]  # None if unknown
    fault: Optional[str]  # None if it is good

    def __str__(self):
        label = "" if self.label is None else f", label {self.label:g}"
        return f"record {self.number} at byte {self.at}{label}: {self.fault}"


def structure(content, listed=(), num_classes: Optional[int] = None) -> Iterator[Record]:
    """Yield every record of a file.

    Args:
        content: of the file, from :func:`common.records.records.view`.
        listed: the sorted offsets in its index.
        num_classes: labels are below it; None if unknown.
    """
    for number, (at, _, label, fault) in enumerate(records.walk(content, listed)):
        yield Record(number, at, label, fault or _label_fault(label, num_classes))


def _label_fault(label, num_classes):
    if records.is_class(label, num_classes):
        return None
    if records.is_class(label):
        return f"its label is not one of {num_classes} classes, 0 to {num_classes - 1}"
    return "its label is not a class number"


def undecodable(path: str, found: List[Record], workers: int) -> Iterator[Record]:
    """Yield those of ``found``, all of them good, whose image cannot be decoded, or only in part.

    Args:
        workers: processes; what a JPEG decoder warns of, it writes to the stderr of its process.

    Raises:
        UserError: a process died.
    """
    chunks = [found[i : i + _CHUNK] for i in range(0, len(found), _CHUNK)]
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), _begin) as processes:
            judged = processes.map(functools.partial(_judge, path), chunks)
            faults = itertools.chain.from_iterable(judged)
            for record, fault in pack.progress(zip(found, faults), "decode", len(found)):
                if fault:
                    yield record._replace(fault=fault)
    except BrokenProcessPool:
        raise UserError(f"{path}: a process died (out of memory?); lower --data-nthreads")


def _begin():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    cv2.setNumThreads(1)


def _judge(path, chunk):
    with records.view(path) as content:
        return [picture.fault(records.read_image(content, record.at)) for record in chunk]


def index_faults(path: str, listed: np.ndarray, found: List[Record]) -> Iterator[str]:
    """Yield a line for each way in which ``listed``, its index, is not what ``path`` holds."""
    starts = np.array([record.at for record in found], np.int64)
    good = np.array([record.at for record in found if not record.fault], np.int64)
    offsets, entries = np.unique(listed, return_counts=True)
    for wrong, what in (
        (np.setdiff1d(offsets, starts), "entries point where no record begins"),
        (offsets[entries > 1], "offsets are there more than once"),
        (np.setdiff1d(good, offsets), "good records have no entry"),
    ):
        if len(wrong):
            yield f"{records.index_path(path)}: {len(wrong)} {what}; the first at byte {wrong[0]}"


def repair(content, good: List[Record], prefix: str, classes: Optional[List[str]]) -> None:
    """Write the ``good`` records to ``prefix.rec`` with an index, and the names of the classes."""
    if not good:
        raise UserError(f"{prefix}.rec: there is no good record to write")
    with records.create(prefix, classes) as writer:
        for record in pack.progress(good, os.path.basename(prefix), len(good)):
            writer.write(record.label, records.read_image(content, record.at))


def _check_output(args):
    """The prefix to write to; refuse the input, and output that is there unless --overwrite."""
    prefix = args.repair[:-4] if args.repair.endswith(".rec") else args.repair
    inputs = [os.path.realpath(path) for path in (args.rec, records.index_path(args.rec))]
    for path in (f"{prefix}.rec", f"{prefix}.idx", f"{prefix}-classes.txt"):
        if os.path.realpath(path) in inputs:
            raise UserError(f"--repair {args.repair}: is what is checked; choose another name")
        if os.path.exists(path) and not args.overwrite:
            raise UserError(f"{path}: is there already; choose another name or pass --overwrite")
    os.makedirs(os.path.dirname(os.path.abspath(prefix)), exist_ok=True)
    return prefix


def _parse(argv):
    parser = ArgumentParser(prog="python -m data.check", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("rec", metavar="X.rec", help="the record file")
    add("--decode", action="store_true", help="decode every image, too")
    add("--repair", metavar="OUT", help="write OUT.rec, .idx and so on, of the good records")
    add("--overwrite", action="store_true", help="replace output that is there already")
    add("--num-classes", type=cli.positive_int, help="default: as X-classes.txt has")
    add("--data-nthreads", type=cli.positive_int, default=cpus.available(), help="for --decode")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Check, say what is wrong, repair; return the exit code."""
    args = _parse(argv)
    prefix = _check_output(args) if args.repair else None
    classes = records.class_names(args.rec)
    with records.view(args.rec) as content:
        listed, wrong = _read_index(args.rec)
        count = args.num_classes or (len(classes) if classes else None)
        found, good = [], []
        for record in structure(content, () if listed is None else listed, count):
            found.append(record)
            if record.fault:
                print(record)
            else:
                good.append(record)
        if args.decode:
            good = _decodable(args.rec, good, args.data_nthreads)
        if listed is not None:
            wrong += index_faults(args.rec, listed, found)
        for line in wrong:
            print(line)
        print(f"{args.rec}: {len(good)} records good, {len(found) - len(good)} faulty")
        if prefix and (wrong or len(good) < len(found)):
            repair(content, good, prefix, classes)
            print(f"{prefix}.rec: has the {len(good)} good records; the faulty ones were left out")
        elif prefix:
            print(f"{prefix}.rec: not written, there is nothing to repair")
    return int(bool(wrong) or len(good) < len(found))


def _read_index(path):
    """The offsets in the index of ``path``, None if it has none; and lines with what is wrong."""
    try:
        listed = records.index_offsets(path)
    except UserError as error:
        return None, [str(error)]
    return listed, [f"{records.index_path(path)}: is missing"] if listed is None else []


def _decodable(path, found, workers):
    """Those of ``found`` whose image can be decoded; print the others."""
    bad = set()
    for record in undecodable(path, found, workers):
        tqdm.write(str(record))  # above the progress bar
        bad.add(record.number)
    return [record for record in found if record.number not in bad]


if __name__ == "__main__":
    run(main)
