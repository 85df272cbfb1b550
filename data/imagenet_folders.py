"""ImageNet's jobs: what to pack, part by part. Here those of the folders that Kaggle gives out."""

import csv
import os
import zlib
from typing import Callable, Collection, Container, Dict, Iterator, List, NamedTuple, Tuple

from common.cli import UserError
from common.records.picture import EXTENSIONS
from data import pack

TRAIN_IMAGES, VAL_IMAGES, VAL_PART = 1281167, 50000, 1000
_REMEDY = "unpack it again (what is done is kept)"
PARTIAL = "or pass --allow-partial for images of your own"


class Job(NamedTuple):
    """A split of ImageNet to pack.

    A part's name tells by a size or digest what it was made from, so that parts of other files have
    other names. ``parts`` has them all once ``items`` has run to its end.
    """

    split: str
    images: int  # that ImageNet has
    path: str
    remedy: str
    parts: Collection[str]  # their names
    items: Callable[[Container[str]], Iterator[pack.Item]]  # (name, part, image) of those not done
    label: Callable[[str, str], int]  # of the image in (part's name, image's name)


def training(path: str, remedy: str, labels: Dict[str, int], of_class: Callable) -> Job:
    """The training images: a class is a part; ``of_class(label)`` gives (name, image) of each."""

    def items(done):
        for part, label in labels.items():
            if part not in done:
                for name, image in of_class(label):
                    yield name, part, image

    return Job("train", TRAIN_IMAGES, path, remedy, labels, items, lambda part, _: labels[part])


def check_count(path: str, found: int, wanted: int, remedy: str, allow_partial: bool) -> None:
    """Raise UserError if there are not all of ImageNet's classes."""
    if found != wanted and not allow_partial:
        raise UserError(f"{path}: has {found} classes, not {wanted}; {remedy}, {PARTIAL}")


def train_folder(path: str, wnids: List[str], allow_partial: bool) -> Job:
    """ILSVRC/Data/CLS-LOC/train: a folder for each WordNet id."""
    with os.scandir(path) as entries:
        found = sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")
    unknown = [name for name in found if name not in wnids]
    if unknown or not found:
        fault = f"{unknown[0]} is no class of ImageNet" if unknown else "has no class folders"
        raise UserError(
            f"{path}: {fault}; give the folder that holds {wnids[0]} to {wnids[-1]}, such as"
            " ILSVRC/Data/CLS-LOC/train"
        )
    check_count(path, len(found), len(wnids), _REMEDY, allow_partial)
    files = {wnids.index(name): _pictures(os.path.join(path, name)) for name in found}
    for label, listed in files.items():
        if not listed:
            raise UserError(
                f"{path}: {wnids[label]} holds no picture; {_REMEDY}, or remove that folder and"
                " pass --allow-partial"
            )
    labels = {f"{wnids[label]}-{_digest(listed)}": label for label, listed in files.items()}
    return training(path, _REMEDY, labels, files.get)


def val_folder(path: str, labels: Dict[str, int]) -> Job:
    """ILSVRC/Data/CLS-LOC/val, all pictures in one folder; every VAL_PART of them are a part."""
    files = _pictures(path)
    if not files:
        raise UserError(
            f"{path}: no pictures lie in it; give ILSVRC/Data/CLS-LOC/val; pictures in class"
            f" folders are for python -m data.folder TRAIN_DIR PREFIX --val-dir {path}"
        )
    for name, _ in files:
        if name not in labels:
            raise UserError(f"{path}: --devkit has no label for {name}")
    digest = _digest(files)
    parts = [f"{n:02d}-{digest}" for n in range(-(-len(files) // VAL_PART))]

    def items(done):
        for i, (name, file) in enumerate(files):
            if parts[i // VAL_PART] not in done:
                yield name, parts[i // VAL_PART], file

    return Job("val", VAL_IMAGES, path, _REMEDY, parts, items, lambda _, image: labels[image])


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
