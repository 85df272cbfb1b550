"""Image sets that fit in memory, made into record files: what cifar10.py and mnist.py share.

And a small tar archive's files, for imagenet.py, too.
"""

import gzip
import os
import tarfile
import zlib
from typing import Callable, Dict, Optional, Sequence, Tuple

import numpy as np

from common.cli import ArgumentParser, UserError
from common.io.files import cache_folder
from common.io.opencv import cv2
from common.records.scan import scan_records
from common.records.writer import create_records, record_paths
from data.progress import progress

# Images, (N, H, W, 3) BGR or (N, H, W) grey, uint8; and their labels, (N,).
Split = Tuple[np.ndarray, np.ndarray]

# Run-length PNG: the fastest of zlib's strategies, and for pictures this small also the smallest.
_PNG = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
_SHUFFLE_SEED = 0


def parser(description: str, out: str, source: str) -> ArgumentParser:
    """The command line of one data set: its default folder, and what --source may be."""
    command = ArgumentParser(description=description)
    command.add_argument("--out", default=out, help="folder for train.rec, val.rec and companions")
    command.add_argument("--source", help=source)
    command.add_argument("--cache", default=cache_folder(), help="folder that keeps the download")
    command.add_argument("--overwrite", action="store_true", help="make the records again")
    return command


def make_records(
    out: str,
    classes: Sequence[str],
    counts: Dict[str, int],
    load: Callable[[], Dict[str, Split]],
    overwrite: bool = False,
) -> None:
    """Write ``out/SPLIT.rec``, ``.idx`` and ``-classes.txt`` for each split of ``counts``.

    ``counts`` is as {"train": 50000, "val": 10000}; a "holdout" comes before "train", which lacks
    its images. Splits that are whole already are kept, unless ``overwrite``, which also deletes a
    holdout that is not in ``counts``; ``load`` gives the others, called at most once. The training
    images are shuffled, in the same order each time; the others keep the data set's order.
    UserError if ``out`` holds whole splits of other sizes, or ``load`` gives other images.
    """
    holdout = [] if "holdout" in counts else record_paths(os.path.join(out, "holdout"))
    left_over = list(filter(os.path.exists, holdout))
    if left_over and not overwrite:
        raise UserError(
            f"{left_over[0]}: train.rec beside it lacks its images; give --holdout as before,"
            " choose another --out, or pass --overwrite to make train.rec anew"
        )
    todo = [split for split in counts if overwrite or not _is_whole(out, split, counts, classes)]
    splits = load() if todo else {}
    for split in todo:
        _check(split, *splits[split], counts[split], len(classes))
    for path in left_over:
        os.unlink(path)
    for split in todo:
        os.makedirs(out, exist_ok=True)
        _write(os.path.join(out, split), *splits[split], classes, shuffle=split == "train")


def _is_whole(out, split, counts, classes):
    path = os.path.join(out, f"{split}.rec")
    if not os.path.exists(path):
        return False
    try:
        records = scan_records(path)
    except UserError:
        print(f"{path}: is damaged; making it again")
        return False
    if len(records) != counts[split]:
        raise UserError(
            f"{path}: has {len(records):,} images, not {counts[split]:,}; choose another --out or"
            " --holdout, or pass --overwrite to make it anew"
        )
    if records.classes != list(classes):
        return False
    print(f"{path}: already made and whole; kept (--overwrite makes it again)")
    return True


def members(path: str, remedy: str, only: Optional[str] = None) -> Dict[str, bytes]:
    """Every file of a tar archive, or ``only`` that one, {name without its folders: content}.

    UserError, which ends with ``remedy``, if it is none, cut or damaged.
    """
    try:
        with tarfile.open(path) as archive:
            return {
                os.path.basename(member.name): archive.extractfile(member).read()
                for member in archive
                if member.isfile() and only in (None, os.path.basename(member.name))
            }
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError(f"{path}: is no whole tar archive; {remedy}")


def split_off(split: Split, count: int, classes: int) -> Tuple[Split, Split]:
    """Divide a split in two: all but the last images of each class, and those, in its order.

    The second part has ``count`` images, equally many of each of the ``classes`` classes.
    """
    images, labels = split
    held = np.zeros(len(labels), bool)
    for label in range(classes):
        held[np.flatnonzero(labels == label)[-(count // classes) :]] = True
    return (images[~held], labels[~held]), (images[held], labels[held])


def _check(split, images, labels, count, classes):
    if not len(images) == len(labels) == count:
        raise UserError(
            f"{split}: the source has {len(images):,} images and {len(labels):,} labels, not"
            f" {count:,} of each; give the official data set"
        )
    if count and not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(
            f"{split}: the source has labels {labels.min()} to {labels.max()}, not 0 to"
            f" {classes - 1}; give the official data set"
        )


def _write(prefix, images, labels, classes, shuffle):
    order = np.arange(len(images))
    if shuffle:  # RandomState: its stream is the same in every numpy
        np.random.RandomState(_SHUFFLE_SEED).shuffle(order)
    with create_records(prefix, classes) as writer:
        for i in progress(order, os.path.basename(prefix), len(order)):
            writer.write(float(labels[i]), cv2.imencode(".png", images[i], _PNG)[1].tobytes())
    print(f"{prefix}.rec: {len(order):,} images, {os.path.getsize(prefix + '.rec') / 1e6:.1f} MB")
