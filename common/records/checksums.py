"""A checksum for each record, in ``X-checksums.npy``: it shows damage that the records do not.

A label that was changed to another class, or a damaged pixel, leaves a valid record. So a row for
each record keeps its label and the CRC-32 of its payload; data/README.md says who compares them.
"""

import os
import zlib
from typing import BinaryIO, Optional, Sequence

import numpy as np

from common.cli import UserError

from .format import HEADER

_ROW = np.dtype([("label", "<f4"), ("crc32", "<u4")])


def write_checksums(file: BinaryIO, labels: Sequence[float], crcs: Sequence[int]) -> None:
    """Write the rows of a record file: the label of each record and the CRC-32 of its payload."""
    rows = np.empty(len(labels), _ROW)
    rows["label"], rows["crc32"] = labels, crcs
    np.save(file, rows)


def checksums_path(path: str) -> str:
    """'X.rec' -> 'X-checksums.npy'."""
    return os.path.splitext(path)[0] + "-checksums.npy"


def read_checksums(path: str) -> Optional[np.ndarray]:
    """The rows of the record file ``path``, (N,) with ``label`` and ``crc32``; None without any.

    UserError if they are damaged.
    """
    name = checksums_path(path)
    if not os.path.exists(name):
        return None
    try:
        rows = np.load(name, allow_pickle=False)
        if rows.dtype == _ROW and rows.ndim == 1:
            return rows
    except Exception:  # np.load parses the header as Python: damage has many types of error
        pass
    raise UserError(f"{name}: is damaged; delete it, and the records are read without checksums")


def compare_labels(path: str, labels: np.ndarray) -> None:
    """Raise UserError if ``labels``, (N,) float32, are not those in the checksums of ``path``."""
    rows, name = read_checksums(path), checksums_path(path)
    if rows is None:
        return
    if len(rows) != len(labels):
        raise UserError(
            f"{name}: does not fit {path} ({len(rows)} rows for {len(labels)} records); make"
            f" {path} again, or delete {name} if another program wrote the records"
        )
    differ = np.flatnonzero(_bits(rows["label"]) != _bits(labels))
    if len(differ):
        number = differ[0]
        raise UserError(
            f"{path}: record {number} has label {labels[number]:g}, and {name} has"
            f" {rows['label'][number]:g} ({len(differ)} such records); python -m data.check {path}"
            " lists all faults, --repair OUT keeps the rest"
        )


def _bits(labels):
    """The bits of labels, for comparing them: as numbers, NaN would differ from itself."""
    return np.ascontiguousarray(labels, "<f4").view("<u4")


def payload_fault(payload: bytes, label: float, rows: np.ndarray) -> Optional[str]:
    """What is wrong with a record's payload ("has ..."); None if it has the checksum in ``rows``.

    The record's id is the number of its row, so a record that changed places is noticed, too.
    """
    number = HEADER.unpack_from(payload)[2]
    if number >= len(rows):
        return f"has no checksum (its number is {number} of {len(rows)})"
    if zlib.crc32(payload) == rows["crc32"][number]:
        return None
    if _bits(label) != _bits(rows["label"][number]):
        return f"has another checksum: label {rows['label'][number]:g} was written"
    return "has another checksum: its picture was changed"
