"""Write record files: X.rec and its companions appear together, only when whole."""

import contextlib
from typing import BinaryIO, Iterator, Optional, Sequence

from common.io.files import atomic

from .format import HEADER, encode_parts


class RecordWriter:
    """Write images to two open files. Use it through :func:`create_records`."""

    def __init__(self, rec: BinaryIO, idx: BinaryIO):
        self._rec, self._idx = rec, idx
        self.count = 0

    def write(self, label: float, image: bytes) -> None:
        """Append ``image`` (an encoded picture) with its class number; its key is its position."""
        record = encode_parts(HEADER.pack(0, label, self.count, 0) + image)
        self._idx.write(f"{self.count}\t{self._rec.tell()}\n".encode())
        self._rec.write(record)
        self.count += 1


@contextlib.contextmanager
def create_records(prefix: str, classes: Optional[Sequence[str]] = None) -> Iterator[RecordWriter]:
    """Yield a :class:`RecordWriter` whose ``prefix.rec`` and ``.idx`` appear only when whole.

    With ``classes`` (names, in label order) ``prefix-classes.txt`` is written too, a name a line.
    If the block raises, none of them appears and earlier files of those names stay.

    Raises:
        UserError: the disk is full.
    """
    paths = [f"{prefix}.rec", f"{prefix}.idx"]
    if classes is not None:
        paths.append(f"{prefix}-classes.txt")
    with atomic(*paths) as (rec_path, idx_path, *names):
        for path in names:
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in classes)
        with open(rec_path, "wb", 1 << 20) as rec, open(idx_path, "wb", 1 << 20) as idx:
            yield RecordWriter(rec, idx)
