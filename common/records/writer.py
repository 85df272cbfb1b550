"""Write record files: X.rec and its companions appear together, only when whole."""

import contextlib
import zlib
from array import array
from typing import BinaryIO, Iterator, List, Optional, Sequence

from common.io.files import atomic

from .checksums import checksums_path, write_checksums
from .class_names import class_names_path
from .format import HEADER, encode_parts
from .index import index_path


class RecordWriter:
    """Write images to two open files. Use it through :func:`create_records`."""

    def __init__(self, rec: BinaryIO, idx: BinaryIO):
        self._rec, self._idx = rec, idx
        self.labels, self.crcs = array("f"), array("I")

    @property
    def count(self) -> int:
        """How many images are written."""
        return len(self.labels)

    def write(self, label: float, image: bytes) -> None:
        """Append ``image`` (an encoded picture) with its class number; its key is its position."""
        payload = HEADER.pack(0, label, self.count, 0) + image
        record = encode_parts(payload)
        self._idx.write(f"{self.count}\t{self._rec.tell()}\n".encode())
        self._rec.write(record)
        self.labels.append(label)
        self.crcs.append(zlib.crc32(payload))


@contextlib.contextmanager
def create_records(prefix: str, classes: Optional[Sequence[str]] = None) -> Iterator[RecordWriter]:
    """Yield a :class:`RecordWriter`; the files of :func:`record_paths` appear only when whole.

    ``prefix-classes.txt`` has ``classes`` (names, in label order), a name a line. Without them an
    earlier one is deleted: it would name other classes.
    If the block raises, none of them appears and earlier files of those names stay.
    """
    paths = record_paths(prefix)
    old = [paths.pop()] if classes is None else []
    with atomic(*paths, instead_of=old) as (rec_path, idx_path, checksums, *names):
        for path in names:
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in classes or ())
        with open(rec_path, "wb", 1 << 20) as rec, open(idx_path, "wb", 1 << 20) as idx:
            writer = RecordWriter(rec, idx)
            yield writer
        with open(checksums, "wb") as file:
            write_checksums(file, writer.labels, writer.crcs)


def record_paths(prefix: str) -> List[str]:
    """'X' -> X.rec, X.idx, X-checksums.npy and X-classes.txt."""
    rec = f"{prefix}.rec"
    return [rec, index_path(rec), checksums_path(rec), class_names_path(rec)]
