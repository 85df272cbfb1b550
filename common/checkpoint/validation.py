"""Checks of a checkpoint's files for damage that would crash MXNet."""

import math
import os
import struct

from common.graph.graph import Graph
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


def check_graph(symbol: mx.sym.Symbol) -> None:
    """Make sure that nodes read only outputs that exist: MXNet crashes on others.

    Raises:
        ValueError: one does not exist.
    """
    if any(output.index >= output.node.outputs for output in Graph(symbol).taken()):
        raise ValueError("a node of the graph takes an output that is not there")
