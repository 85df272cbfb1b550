"""What is known of the training images before the first one is read."""

import argparse
import dataclasses
import hashlib
from typing import Optional, Sequence, Tuple

import numpy as np

from common.cli import UserError
from common.records.identity import records_fingerprint
from common.records.scan import Records

from .augmentation import Augmentation
from .class_weights import class_weights
from .preparation import Preparation
from .share import Share


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The images of a run and how they become batches."""

    records: Optional[Records]  # None for synthetic images
    images: int  # that make an epoch
    num_classes: int  # labels are 0 to num_classes - 1
    batch_size: int  # images that make an update, over all devices and workers together
    preparation: Preparation
    augmentation: Augmentation
    dtype: str = "float32"  # of a batch, normalised; or "uint8", which the devices normalise
    backend: str = "mxnet"  # the reader; or "dali"
    threads: int = 1  # that decode; with 1 ImageRecordIter's crops and mirrors are repeatable
    class_weights: Optional[Sequence[float]] = None  # in the gradient; None: all the same
    balanced: bool = False  # an epoch has each class equally often, in place of each image once
    share: Share = Share()  # what this process reads of each batch, if there are several workers

    @classmethod
    def from_args(
        cls, args: argparse.Namespace, records: Optional[Records] = None
    ) -> "TrainingData":
        """From the parsed flags; ``records`` is the file of --data-train, scanned.

        UserError if --num-classes, --num-examples or --accumulate does not fit the records.
        """
        batch_size = args.batch_size * args.accumulate
        images = args.num_examples or (len(records) if records else 50 * batch_size)
        if records and images > len(records):
            raise UserError(f"--num-examples {images}: {records.path} has {len(records)}")
        num_classes = _count_classes(records, args.num_classes) if records else args.num_classes
        if args.accumulate > 1 and images < batch_size:
            raise UserError(
                f"--accumulate {args.accumulate}: an update takes {batch_size} images, and an epoch"
                f" has {images}; lower it"
            )
        one_thread = args.deterministic and args.data_backend == "mxnet"
        return cls(
            records,
            images,
            num_classes or 1000,
            batch_size,
            Preparation.from_args(vars(args)),
            Augmentation.from_args(args),
            dtype=args.data_dtype,
            backend=args.data_backend,
            threads=1 if one_thread else args.data_nthreads,
            class_weights=class_weights(args.class_weights, records, num_classes or 1000),
            balanced=args.draw == "balanced",
        )

    @property
    def name(self) -> str:
        """The record file, or the flag that stands for synthetic images."""
        return self.records.path if self.records else "--benchmark 1"

    @property
    def batch_shape(self) -> Tuple[int, int, int, int]:
        """(N, C, H, W) of this process's part of a batch."""
        return (self.batch_size // self.share.size, *self.preparation.image_shape)

    @property
    def fingerprint(self) -> Optional[str]:
        """Of the records and class weights, for checkpoints; None for synthetic images."""
        if self.records is None or self.class_weights is None:
            return self.records and records_fingerprint(self.records.path)
        weights = hashlib.sha256(np.float64(self.class_weights).tobytes()).hexdigest()
        return f"{records_fingerprint(self.records.path)} {weights}"


def _count_classes(records, wanted):
    """How many classes the network tells apart, by the names, the labels and the flag."""
    seen = np.unique(records.labels).astype(int)
    if len(seen) == 1 and wanted in (None, 1):
        raise UserError(
            f"{records.path}: all images have the label {seen[0]}; a network needs two classes or"
            " more; give --num-classes if others are to come"
        )
    if records.classes:
        if wanted not in (None, len(records.classes)):
            raise UserError(
                f"--num-classes {wanted}: {records.path} has {len(records.classes)} class names;"
                " write more names to its -classes.txt, or leave the flag out"
            )
        return len(records.classes)
    present = int(seen[-1]) + 1
    if wanted is not None and wanted < present:
        raise UserError(
            f"--num-classes {wanted}: {records.path} has labels up to {seen[-1]}; give at least"
            f" {present}, or leave the flag out"
        )
    if wanted is None and len(seen) < present:
        missing = next(label for label in range(present) if label != seen[label])
        raise UserError(
            f"{records.path}: labels go from {seen[0]} to {seen[-1]}, but no image has the label"
            f" {missing}; number the classes from 0, or give --num-classes {present} if that is"
            " meant"
        )
    return wanted or present
