"""ImageNet as folders, as Kaggle gives it out: the same jobs as the archives of imagenet.py.

Training images lie in folders of their WordNet ids, validation images in one folder, their labels
in LOC_val_solution.csv.
"""

import csv
import os
import zlib
from typing import Any, Container, Dict, Iterator, List, Tuple

from common.cli import UserError
from common.records.picture import EXTENSIONS
from data import pack

VAL_PART = 1000  # images


class Training:
    """The training images; each class is a part.

    ``parts`` maps a part's number, here the label, to its name. The name tells by a size or digest
    what the class was made from, so that parts of other files have other names.
    """

    split, images = "train", 1281167

    def _set(self, sources: Dict[int, Any], parts: Dict[int, str]):
        """``sources``: where each label's images are."""
        self._sources, self.parts = sources, parts
        self._labels = {name: label for label, name in parts.items()}

    def items(self, done: Container[str]) -> Iterator[pack.Item]:
        """Yield (image name, part number, bytes or path) of each image whose part is not done."""
        for label, source in self._sources.items():
            if self.parts[label] not in done:
                yield from self._class_items(label, source)

    def label(self, part: str, image: str) -> int:
        """The label of every image of the part with this name."""
        return self._labels[part]


class TrainFolder(Training):
    """ILSVRC/Data/CLS-LOC/train."""

    remedy = "unpack it again (what is done is kept)"

    def __init__(self, path: str, wnids: List[str], allow_partial: bool):
        self.path = path
        with os.scandir(path) as entries:
            found = sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")
        unknown = [name for name in found if name not in wnids]
        if unknown or not found:
            fault = f"{unknown[0]} is no class of ImageNet" if unknown else "has no class folders"
            raise UserError(
                f"{path}: {fault}; give the folder that holds {wnids[0]} to {wnids[-1]}, such as"
                " ILSVRC/Data/CLS-LOC/train"
            )
        if len(found) != len(wnids) and not allow_partial:
            raise UserError(
                f"{path}: has {len(found)} classes, not {len(wnids)}; {self.remedy}, or pass"
                " --allow-partial"
            )
        files = {wnids.index(name): _pictures(os.path.join(path, name)) for name in found}
        empty = next((wnids[label] for label in files if not files[label]), None)
        if empty:
            raise UserError(
                f"{path}: {empty} holds no picture; {self.remedy}, or remove that folder and pass"
                " --allow-partial"
            )
        self._set(files, {label: f"{wnids[label]}-{_digest(files[label])}" for label in files})

    def _class_items(self, label, files):
        return ((name, label, path) for name, path in files)


class ValFolder:
    """ILSVRC/Data/CLS-LOC/val; every thousand images are a part. See :class:`TrainFolder`."""

    split, images, remedy = "val", 50000, TrainFolder.remedy

    def __init__(self, path: str, labels: Dict[str, int]):
        self.path, self._labels, self._files = path, labels, _pictures(path)
        if not self._files:
            raise UserError(
                f"{path}: no pictures lie in it; give ILSVRC/Data/CLS-LOC/val; pictures in class"
                f" folders are for python -m data.folder TRAIN_DIR PREFIX --val-dir {path}"
            )
        for name, _ in self._files:
            if name not in labels:
                raise UserError(f"{path}: --devkit has no label for {name}")
        digest = _digest(self._files)
        parts = range(-(-len(self._files) // VAL_PART))
        self.parts = {number: f"{number:02d}-{digest}" for number in parts}

    def items(self, done: Container[str]) -> Iterator[pack.Item]:
        """Yield (image name, part number, path) of each image whose part is not in ``done``."""
        for i, (name, path) in enumerate(self._files):
            if self.parts[i // VAL_PART] not in done:
                yield name, i // VAL_PART, path

    def label(self, part: str, image: str) -> int:
        """The label of the image with this file name."""
        return self._labels[image]


def _pictures(folder) -> List[Tuple[str, str]]:
    """(name, path) of the pictures in ``folder``, sorted."""
    names = sorted(name for name in os.listdir(folder) if name[0] != ".")
    endings = tuple(EXTENSIONS)
    return [(n, os.path.join(folder, n)) for n in names if n.lower().endswith(endings)]


def _digest(files):
    """Tells the same files from others by name and size, so that other parts are not mixed in."""
    listed = "/".join(f"{name}/{os.path.getsize(path)}" for name, path in files)
    return f"{zlib.crc32(listed.encode('utf-8', 'replace')):08x}"


def solution_labels(path: str, wnids: List[str]) -> Dict[str, int]:
    """{file name of a validation image: label}, from Kaggle's LOC_val_solution.csv.

    A line is ``ILSVRC2012_val_00048981,n03995372 85 1 499 272``: the WordNet id and boxes;
    UserError if not.
    """
    labels = {}
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        for row in csv.reader(file):
            wnid = row[1].split(" ")[0] if len(row) == 2 else ""
            if wnid in wnids:
                labels[f"{row[0]}.JPEG"] = wnids.index(wnid)
            elif row != ["ImageId", "PredictionString"]:
                line = ",".join(row)[:60]
                raise UserError(f"{path}: {line!r} is no line of LOC_val_solution.csv")
    return labels
