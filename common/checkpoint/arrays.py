"""Named arrays in MXNet's file format: written without silent loss, and checked before reading."""

import errno
import math
import os
import struct
from typing import Dict, List

import numpy as np

from common.cli import UserError
from common.runtime.mxnet import mx

# Files of mx.nd.save: the number that starts them, and those that start an array, by version: of
# MXNet 0.11 and later, of 0.10. Before that an array began with its rank.
_LIST, _ARRAYS, _ARRAYS_0_10 = 0x112, (0xF993FAC9, 0xF993FACA), 0xF993FAC8
_SIZES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8, 7: 1}  # bytes by type of element
_MAX_RANK = 32


def check_arrays(path: str) -> None:
    """Make sure that ``path`` holds the weights of a Module, and is whole.

    Raises what :func:`array_names` does, and UserError for names of Gluon's save_parameters.
    """
    if any(not name.startswith(("arg:", "aux:")) for name in array_names(path)):
        raise UserError(
            f"{path}: has names without arg: or aux:, as Gluon's save_parameters writes them; save"
            " the network with net.export, or mx.model.save_checkpoint (import_weights.py reads"
            " AlexNet of Gluon's zoo)"
        )


def array_names(path: str) -> List[str]:
    """The names in a file of named arrays, once it is known to be whole and made by mx.nd.save.

    MXNet believes the numbers in it; damaged ones crash it, or take all memory. Here they are a
    ValueError, KeyError or struct.error.
    """
    with open(path, "rb") as file:
        magic, _, count = _take(file, "3Q")
        for _ in range(count):
            _skip_array(file)
        (names,) = _take(file, "Q")
        found = [file.read(_checked(file, *_take(file, "Q"))) for _ in range(names)]
        if magic != _LIST or names != count or file.read(1):
            raise ValueError(f"{path}: is not a file of named arrays")
    return [name.decode() for name in found]


def _take(file, layout):
    return struct.unpack("<" + layout, file.read(struct.calcsize("<" + layout)))


def _checked(file, length):
    """``length``, if the file has so many bytes left."""
    if not 0 <= length <= os.path.getsize(file.name) - file.tell():
        raise ValueError(f"{file.name}: a length in it is wrong")
    return length


def _skip_array(file):
    (first,) = _take(file, "I")
    if first in _ARRAYS:
        storage, rank = _take(file, "2i")
    else:
        storage, rank = 0, _take(file, "i")[0] if first == _ARRAYS_0_10 else first
    if storage != 0 or not 0 < rank <= _MAX_RANK:
        raise ValueError(f"{file.name}: holds something else than dense arrays")
    shape = _take(file, f"{rank}{'I' if first == rank else 'q'}")
    _, _, kind = _take(file, "3i")
    length = math.prod(shape) * _SIZES[kind] if min(shape) > 0 else -1
    file.seek(_checked(file, length), os.SEEK_CUR)


def as_float32(arrays: Dict[str, mx.nd.NDArray]) -> Dict[str, mx.nd.NDArray]:
    """The arrays, of which float16 and float64 ones become float32; int8 weights stay."""
    other = (np.float16, np.float64)
    return {n: a.astype("float32") if a.dtype in other else a for n, a in arrays.items()}


def save_arrays(path: str, arrays: Dict[str, mx.nd.NDArray]) -> None:
    """``mx.nd.save``, but an OSError if the disk is full."""
    try:
        mx.nd.save(path, arrays)
    except mx.base.MXNetError as error:
        cause = str(error).strip().splitlines()[-1].rpartition("Check failed: ")[2]
        said = f"the disk may be full, or the folder read-only ({cause[-60:]})"
        raise OSError(errno.ENOSPC, said)
    # On a full disk the last write of mx.nd.save can fail without a word. Names end the file.
    last = list(arrays)[-1].encode()
    with open(path, "rb") as file:
        file.seek(-min(len(last), os.path.getsize(path)), os.SEEK_END)
        if file.read() != last:
            raise OSError(errno.ENOSPC, "the disk is full, or the file may not be as large")
