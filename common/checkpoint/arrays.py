"""Named arrays in MXNet's file format: written without silent loss, and checked before reading."""

import contextlib
import errno
import math
import os
import struct
from typing import Dict

from common.runtime.mxnet import mx

# Files of mx.nd.save: the magic numbers of a file and of an array; bytes of each element type.
_LIST, _ARRAYS = 0x112, (0xF993FAC9, 0xF993FACA)
_SIZES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8, 7: 1}


def check_arrays(path: str) -> None:
    """Raise ValueError, KeyError or struct.error unless mx.nd.save made ``path``: named arrays.

    MXNet trusts the sizes in it: wrong ones crash it, or take all memory.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:

        def take(layout):
            return struct.unpack("<" + layout, file.read(struct.calcsize("<" + layout)))

        def skip(length):
            if not 0 <= length <= size - file.tell():
                raise ValueError(f"{path}: a length in it is wrong")
            file.seek(length, os.SEEK_CUR)

        magic, _, count = take("3Q")
        sound = magic == _LIST
        for _ in range(count):
            magic, storage, rank = take("I2i")
            if magic not in _ARRAYS or storage != 0 or not 0 < rank <= 32:
                raise ValueError(f"{path}: holds something else than dense arrays")
            shape = take(f"{rank}q")
            _, _, kind = take("3i")
            skip(math.prod(shape) * _SIZES[kind] if min(shape) > 0 else -1)
        (names,) = take("Q")
        for _ in range(names):
            skip(*take("Q"))
        if not sound or names != count or file.tell() != size:
            raise ValueError(f"{path}: is not a file of named arrays")


def save_arrays(path: str, arrays: Dict[str, mx.nd.NDArray]) -> None:
    """``mx.nd.save``, which fails if the disk is full.

    Raises:
        OSError: the file cannot be written whole.
    """
    with _errors_of_mxnet():
        mx.nd.save(path, arrays)
    # On a full disk the last write of mx.nd.save can fail silently. Names end the file.
    last = list(arrays)[-1].encode()
    with open(path, "rb") as file:
        file.seek(-min(len(last), os.path.getsize(path)), os.SEEK_END)
        if file.read() != last:
            raise OSError(errno.ENOSPC, "the disk is full, or the file may not be as large")


@contextlib.contextmanager
def _errors_of_mxnet():
    try:
        yield
    except mx.base.MXNetError as error:
        cause = str(error).strip().splitlines()[-1].rpartition("Check failed: ")[2]
        raise OSError(
            errno.ENOSPC, f"the disk may be full, or the folder read-only ({cause[-60:]})"
        )
