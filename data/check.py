"""Find every fault of a record file, and write one without the faulty records.

    python -m data.check photos.rec --decode
    python -m data.check photos.rec --decode --repair photos-whole

Reads X.rec, X.idx, X-checksums.npy and, for the number of classes, X-classes.txt. Prints a line
for each fault on stdout, and a summary; after damage the search continues at the next record. Every
record is compared with its checksum, where there are any. With --decode every image is decoded,
too: MXNet shows a cut JPEG as a partly grey picture, and an image that it cannot decode kills it.
Exit code: 0 without faults, 1 with faults, 2 if there is nothing to check.
"""

import argparse
import contextlib
import functools
import os
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from common import cli
from common.cli import ArgumentParser, UserError, run
from common.io import cpus
from common.io.limits import is_limit, limit_reached
from common.records import picture
from common.records.checksums import checksums_path, payload_fault, read_checksums
from common.records.class_names import is_class, read_class_names
from common.records.format import read_image, read_payload
from common.records.index import index_path, read_index
from common.records.walk import open_records, walk_records
from common.records.writer import create_records, record_paths
from data import workers as pool
from data.outputs import prefix_of, prepare_output
from data.progress import progress


class Record(NamedTuple):
    """A record, or a stretch of the file that should hold one."""

    number: int
    at: int  # offset in bytes
    end: int
    label: Optional[float]  # None if unknown
    fault: Optional[str]  # None if it is good

    def __str__(self):
        label = "" if self.label is None else f", label {self.label:g}"
        return f"record {self.number} at byte {self.at}{label}: {self.fault}"


def structure(
    content: bytes, listed: Sequence[int] = (), num_classes: Optional[int] = None
) -> Iterator[Record]:
    """Yield every record of a file; a label that is not below ``num_classes`` is a fault, too."""
    for number, (at, end, label, fault) in enumerate(walk_records(content, listed)):
        yield Record(number, at, end, label, fault or _label_fault(label, num_classes))


def _label_fault(label, num_classes):
    if is_class(label, num_classes):
        return None
    if is_class(label):
        return f"its label is not one of {num_classes} classes, 0 to {num_classes - 1}"
    return "its label is not a class number"


def compare_checksums(
    content: bytes, records: List[Record], rows: np.ndarray, path: str
) -> Tuple[List[Record], List[str]]:
    """Compare each record without a fault with its checksum; ``rows`` are those of ``path``.

    Returns the records, with the faults that this shows, and lines about the checksums themselves.
    """
    compared, compared_well = [], 0
    for record in progress(records, "checksums", len(records)):
        if not record.fault:
            fault = payload_fault(read_payload(content, record.at), record.label, rows)
            compared_well += fault is None
            record = record._replace(fault=fault)
        compared.append(record)
    name = checksums_path(path)
    if not compared_well and any(not record.fault for record in records):
        return records, [f"{name}: does not fit {path}: no record has its checksum; not used"]
    lost = len(rows) - len(records)
    return compared, [f"{name}: has {lost} rows more than there are records"] if lost > 0 else []


def undecodable(path: str, records: List[Record], workers: int) -> Iterator[Record]:
    """Yield those of ``records``, without a fault so far, whose image cannot be decoded whole."""
    judge = functools.partial(_decoding_fault, path)
    judged = pool.run(
        judge, records, workers, "--data-nthreads", lambda one: f"record {one.number}"
    )
    try:
        with contextlib.closing(judged):
            for record, fault in progress(judged, "decode", len(records)):
                if fault:
                    yield record._replace(fault=fault)
    except UserError as error:
        raise UserError(f"{path}: {error}")


def _decoding_fault(path, record):
    try:
        with open(path, "rb") as file:
            file.seek(record.at)
            return picture.fault(read_image(file.read(record.end - record.at), 0))
    except OSError as error:
        if is_limit(error):
            raise UserError(f"cannot be read: {limit_reached(error)}")
        return f"cannot be read ({error.strerror})"


def index_faults(path: str, listed: np.ndarray, records: List[Record]) -> Iterator[str]:
    """Yield a line for each way in which ``listed``, its index, is not what ``path`` holds."""
    starts = np.array([record.at for record in records], np.int64)
    good = np.array([record.at for record in records if not record.fault], np.int64)
    offsets, entries = np.unique(listed, return_counts=True)
    for wrong, what in (
        (np.setdiff1d(offsets, starts), "entries point where no record begins"),
        (offsets[entries > 1], "offsets are listed more than once"),
        (np.setdiff1d(good, offsets), "good records have no entry"),
    ):
        if len(wrong):
            yield f"{index_path(path)}: {len(wrong)} {what}; the first at byte {wrong[0]}"


def repair(content: bytes, good: List[Record], prefix: str, classes: Optional[List[str]]) -> None:
    """Write the ``good`` records to ``prefix.rec`` with its companions."""
    if not good:
        raise UserError(f"{prefix}.rec: there is no good record to write")
    with create_records(prefix, classes) as writer:
        for record in progress(good, os.path.basename(prefix), len(good)):
            writer.write(record.label, read_image(content, record.at))


def _prepare_repair(args):
    """The prefix to write to; the files that are checked are refused."""
    prefix = prefix_of(args.repair)
    inputs = {os.path.realpath(path) for path in record_paths(os.path.splitext(args.rec)[0])}
    inputs.add(os.path.realpath(args.rec))
    if inputs & {os.path.realpath(path) for path in record_paths(prefix)}:
        raise UserError(f"--repair {args.repair}: is the file that is checked; choose another name")
    prepare_output(prefix, args.overwrite)
    return prefix


def _parse(argv) -> argparse.Namespace:
    parser = ArgumentParser(__doc__, prog="python -m data.check")
    add = parser.add_argument
    add("rec", metavar="X.rec", help="the record file")
    add("--decode", action="store_true", help="decode every image, too")
    add("--repair", metavar="OUT", help="write OUT.rec, .idx and so on, of the good records")
    add("--overwrite", action="store_true", help="replace existing output")
    add("--num-classes", type=cli.positive_int, help="default: as X-classes.txt has")
    add("--data-nthreads", type=cli.positive_int, default=cpus.available(), help="for --decode")
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> int:
    """Check, say what is wrong, repair; return the exit code."""
    args = _parse(argv)
    prefix = _prepare_repair(args) if args.repair else None
    classes = read_class_names(args.rec)
    with open_records(args.rec) as content:
        records, wrong = _check(content, args, args.num_classes or len(classes or ()) or None)
        good = [record for record in records if not record.fault]
        for line in wrong:
            print(line)
        print(f"{args.rec}: {len(good)} records good, {len(records) - len(good)} faulty")
        faulty = bool(wrong) or len(good) < len(records)
        if prefix and faulty:
            repair(content, good, prefix, classes)
            print(f"{prefix}.rec: has the {len(good)} good records; the faulty ones were left out")
        elif prefix:
            print(f"{prefix}.rec: not written, there is nothing to repair")
    return int(faulty)


def _check(content, args, num_classes):
    """Every record, the faulty ones printed, and lines about its companion files."""
    listed, wrong = _read_companion(read_index, args.rec)
    if listed is None and not wrong:
        wrong = [f"{index_path(args.rec)}: is missing"]
    records = list(structure(content, () if listed is None else listed, num_classes))
    rows, lines = _read_companion(read_checksums, args.rec)
    if rows is not None:
        records, lines = compare_checksums(content, records, rows, args.rec)
    wrong += lines
    for record in records:
        if record.fault:
            tqdm.write(str(record))
    if args.decode:
        good = [record for record in records if not record.fault]
        for record in undecodable(args.rec, good, args.data_nthreads):
            tqdm.write(str(record))
            records[record.number] = record
    if listed is not None:
        wrong += index_faults(args.rec, listed, records)
    return records, wrong


def _read_companion(read, path):
    """What ``read`` reads of ``path``, None if that is missing or damaged; lines on the damage."""
    try:
        return read(path), []
    except UserError as error:
        return None, [str(error)]


if __name__ == "__main__":
    run(main)
