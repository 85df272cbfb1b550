"""Random augmentation of training images: the flags, ImageRecordIter's names for them, lighting.

Lighting is drawn here and not by ImageRecordIter: it costs nothing when it is added while a batch
becomes float32, and it is repeatable. ImageRecordIter does the rest. For DALI the crops are drawn
here, too.
"""

import argparse
import dataclasses
import math
from typing import Any, Mapping, NamedTuple, Optional, Set, Tuple

import numpy as np

from common import cli
from common.cli import UserError

# Principal components of ImageNet's colours, as in MXNet's image_aug_default.cc: a row for each of
# R, G, B, a column for each component; and the components' standard deviations in grey levels.
_EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_EIGENVALUES = np.array([55.46, 4.794, 1.148])


class _Entry(NamedTuple):
    flag: str
    argument: Optional[str]  # ImageRecordIter's name for it; None: not done there
    off: object  # the value that changes nothing
    least: float
    most: float
    help: str
    colour: bool = False


# The flags of MXNet's example/image-classification, all of them.
_TABLE = [
    _Entry("--random-crop", "rand_crop", 0, 0, 1, "1: crop at a random place, 0: at the centre"),
    _Entry("--random-mirror", "rand_mirror", 0, 0, 1, "1: mirror half of the images, 0: none"),
    _Entry("--pca-noise", None, 0.0, 0, math.inf, "deviation of the PCA lighting", True),
    _Entry("--random-resized-crop", "random_resized_crop", 0, 0, 1, "1: crop by area and aspect"),
    _Entry("--min-random-area", "min_random_area", 1.0, 0.001, 1, "least area of a resized crop"),
    _Entry("--max-random-area", "max_random_area", 1.0, 0.001, 1, "largest area of a resized crop"),
    _Entry("--min-crop-size", "min_crop_size", -1, -1, math.inf, "least side of a random crop, px"),
    _Entry("--max-crop-size", "max_crop_size", -1, -1, math.inf, "largest side of it, px"),
    _Entry("--min-random-scale", "min_random_scale", 1.0, 0.001, 1000, "least random scale"),
    _Entry("--max-random-scale", "max_random_scale", 1.0, 0.001, 1000, "largest random scale"),
    _Entry("--min-random-aspect-ratio", "min_aspect_ratio", None, 0, 1000, "least width / height"),
    _Entry("--max-random-aspect-ratio", "max_aspect_ratio", 0.0, 0, 1000, "largest width / height"),
    _Entry("--max-random-rotate-angle", "max_rotate_angle", 0, 0, 360, "largest angle, degrees"),
    _Entry("--max-random-shear-ratio", "max_shear_ratio", 0.0, 0, 1000, "largest shear"),
    _Entry("--max-random-h", "random_h", 0, 0, 180, "largest change of hue", True),
    _Entry("--max-random-s", "random_s", 0, 0, 255, "largest change of saturation", True),
    _Entry("--max-random-l", "random_l", 0, 0, 255, "largest change of lightness", True),
    _Entry("--brightness", "brightness", 0.0, 0, 1000, "largest relative change", True),
    _Entry("--contrast", "contrast", 0.0, 0, 1000, "largest relative change", True),
    _Entry("--saturation", "saturation", 0.0, 0, 1000, "largest relative change", True),
    _Entry("--pad-size", "pad", 0, 0, 65535, "pixels added on each side before the crop"),
    _Entry("--fill-value", "fill_value", 127, 0, 255, "grey value of what is added"),
]

_NOT_WITH_RESIZED_CROP = (
    "--random-crop", "--min-crop-size", "--max-crop-size", "--min-random-scale",
    "--max-random-scale",
)  # fmt: skip
_RANGES = (
    ("--min-random-area", "--max-random-area"),
    ("--min-crop-size", "--max-crop-size"),
    ("--min-random-scale", "--max-random-scale"),
    ("--min-random-aspect-ratio", "--max-random-aspect-ratio"),
)


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the augmentation flags; without a recipe everything is off."""
    group = parser.add_argument_group("augmentation (training only)")
    for entry in _TABLE:
        kind = float if isinstance(entry.off, float) or entry.off is None else int
        bounded = cli.number(kind, least=entry.least, most=entry.most)
        group.add_argument(entry.flag, type=bounded, default=entry.off, help=entry.help)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are varied, and the seed of all that is drawn at random."""

    seed: int  # of the order of images, crops, mirrors and lighting
    pca_noise: float  # standard deviation of the weights of the PCA lighting; 0 for none
    options: Mapping[str, Any]  # ImageRecordIter's keyword arguments for these and all other flags

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "Augmentation":
        """From the parsed flags of :func:`add_args` and --seed."""
        values = {entry.argument: _value(args, entry.flag) for entry in _TABLE if entry.argument}
        options = {name: value for name, value in values.items() if value is not None}
        return cls(args.seed, args.pca_noise, options)

    def epoch_seed(self, epoch: int, part: int = 0) -> int:
        """The seed of the order of an epoch, or of a part of it: different for each --seed."""
        key = [self.seed, epoch, part] if part else [self.seed, epoch]
        return int(np.random.SeedSequence(key).generate_state(1)[0] >> 1)

    def lighting(self, shape: Tuple[int, int], epoch: int, batch: int) -> np.ndarray:
        """PCA lighting of one batch: what is added to every pixel of each image, in grey levels.

        Each image draws a weight for each component from N(0, pca_noise). The generator is seeded
        with (seed, ``epoch``, ``batch``), so a batch's lighting does not depend on what was read
        before. It is float32 of ``shape``, (images, channels), in R, G, B order.
        """
        if not self.pca_noise:
            return np.zeros(shape, np.float32)
        rng = np.random.RandomState([self.seed, epoch, batch])
        weights = rng.normal(0, self.pca_noise, (shape[0], 3))
        return (weights * _EIGENVALUES @ _EIGENVECTORS.T).astype(np.float32)

    def crops(self, epoch: int, batch: int, margins: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Where to crop each image of a batch, and whether to mirror it, for DALI's images.

        Drawn as `lighting` is. The centre crop leaves an odd pixel out below and at the right, as
        ImageRecordIter does. ``margins`` (N, 2) says by how many rows and columns each image is
        larger than the crop. Row and column of the upper left corner are (N, 2) integers, each
        place equally likely.
        """
        rng = np.random.RandomState([self.seed, epoch, batch, 1])  # not the one of `lighting`
        corners = rng.randint(margins + 1) if self.options["rand_crop"] else margins // 2
        mirrored = rng.randint(2, size=len(margins)) & self.options["rand_mirror"]
        return corners, mirrored.astype(bool)


def active(args: argparse.Namespace) -> Set[str]:
    """The augmentation flags that change something."""
    return {entry.flag for entry in _TABLE if _value(args, entry.flag) != entry.off}


def check_args(args: argparse.Namespace) -> None:
    """Refuse combinations of flags that MXNet would ignore, or abort on."""
    on = active(args)
    for entry in _TABLE:
        if entry.colour and entry.flag in on and args.image_shape[0] == 1:
            raise UserError(f"{entry.flag}: changes colours, but --image-shape says grey images")
    for other in _NOT_WITH_RESIZED_CROP:
        if other in on and "--random-resized-crop" in on:
            raise UserError(f"--random-resized-crop and {other}: MXNet takes only one of them")
    if ("--random-resized-crop" in on) != (args.min_random_area < args.max_random_area):
        raise UserError(
            "--random-resized-crop 1 and --min-random-area below --max-random-area: one does"
            " nothing without the other"
        )
    if ("--min-crop-size" in on) != ("--max-crop-size" in on):
        raise UserError("--min-crop-size and --max-crop-size: MXNet needs both")
    for low, high in _RANGES:
        if low in on and _value(args, low) > _value(args, high):
            raise UserError(f"{low}: is larger than {high}")


def _value(args, flag):
    return getattr(args, flag[2:].replace("-", "_"))
