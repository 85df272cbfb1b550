"""What may be done at random to training images: the flags, ImageRecordIter's names, lighting.

Lighting is drawn here and not by ImageRecordIter: added while a batch becomes float32 it costs
nothing, and it is repeatable. All else is ImageRecordIter's; DALI's crops are drawn here, too.
"""

from typing import NamedTuple, Optional, Set, Tuple

import numpy as np

from common.cli import UserError

# Principal components of ImageNet's colours, those of MXNet's image_aug_default.cc: a row for each
# of R, G, B, a column for each component; and the components' deviations in grey levels.
_EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_EIGENVALUES = np.array([55.46, 4.794, 1.148])


class _Entry(NamedTuple):
    flag: str
    argument: Optional[str]  # ImageRecordIter's name for it; None: not done there
    off: object  # the value that changes nothing
    help: str
    colour: bool = False


# The flags of MXNet's example/image-classification, all of them.
_TABLE = [
    _Entry("--random-crop", "rand_crop", 0, "1: crop at a random place, 0: at the centre"),
    _Entry("--random-mirror", "rand_mirror", 0, "1: mirror half of the images, 0: none"),
    _Entry("--pca-noise", None, 0.0, "deviation of the PCA lighting", True),
    _Entry("--random-resized-crop", "random_resized_crop", 0, "1: crop by area and aspect"),
    _Entry("--min-random-area", "min_random_area", 1.0, "least area of a resized crop"),
    _Entry("--max-random-area", "max_random_area", 1.0, "largest area of a resized crop"),
    _Entry("--min-crop-size", "min_crop_size", -1, "least side of a random crop, px"),
    _Entry("--max-crop-size", "max_crop_size", -1, "largest side of a random crop, px"),
    _Entry("--min-random-scale", "min_random_scale", 1.0, "least random scale"),
    _Entry("--max-random-scale", "max_random_scale", 1.0, "largest random scale"),
    _Entry("--min-random-aspect-ratio", "min_aspect_ratio", None, "least width / height"),
    _Entry("--max-random-aspect-ratio", "max_aspect_ratio", 0.0, "largest width / height"),
    _Entry("--max-random-rotate-angle", "max_rotate_angle", 0, "largest rotation, degrees"),
    _Entry("--max-random-shear-ratio", "max_shear_ratio", 0.0, "largest shear"),
    _Entry("--max-random-h", "random_h", 0, "largest change of hue, 0 to 180", True),
    _Entry("--max-random-s", "random_s", 0, "largest change of saturation, 0 to 255", True),
    _Entry("--max-random-l", "random_l", 0, "largest change of lightness, 0 to 255", True),
    _Entry("--brightness", "brightness", 0.0, "largest relative change", True),
    _Entry("--contrast", "contrast", 0.0, "largest relative change", True),
    _Entry("--saturation", "saturation", 0.0, "largest relative change", True),
    _Entry("--pad-size", "pad", 0, "pixels added on each side before the crop"),
    _Entry("--fill-value", "fill_value", 127, "grey value of what is added"),
]

_NOT_WITH_RESIZED_CROP = (
    "--random-crop",
    "--min-crop-size",
    "--max-crop-size",
    "--min-random-scale",
    "--max-random-scale",
)
_RANGES = (
    ("--min-random-area", "--max-random-area"),
    ("--min-crop-size", "--max-crop-size"),
    ("--min-random-scale", "--max-random-scale"),
    ("--min-random-aspect-ratio", "--max-random-aspect-ratio"),
)


def add_args(parser) -> None:
    """Add the augmentation flags; without a recipe everything is off."""
    group = parser.add_argument_group("augmentation (training only)")
    for entry in _TABLE:
        kind = float if isinstance(entry.off, float) or entry.off is None else int
        group.add_argument(entry.flag, type=kind, default=entry.off, help=entry.help)


def options(args) -> dict:
    """ImageRecordIter's keyword arguments for the flags in ``args``."""
    values = {entry.argument: _value(args, entry.flag) for entry in _TABLE if entry.argument}
    return {name: value for name, value in values.items() if value is not None}


def active(args) -> Set[str]:
    """The augmentation flags that change something."""
    return {entry.flag for entry in _TABLE if _value(args, entry.flag) != entry.off}


def epoch_seed(args, epoch: int) -> int:
    """The seed of an epoch's order: neither another epoch's nor that of another --seed."""
    return int(np.random.SeedSequence([args.seed, epoch]).generate_state(1)[0] >> 1)


def lighting(args, epoch: int, batch: int) -> np.ndarray:
    """PCA lighting of one batch: what is added to every pixel of each image, in grey levels.

    The components' weights are drawn from N(0, --pca-noise) for each image, by a generator seeded
    with (--seed, ``epoch``, ``batch``), so that a batch's lighting does not depend on what was read
    before.

    Returns:
        (N, C) float32 for --batch-size N, in R, G, B order; zeros without --pca-noise.
    """
    if not args.pca_noise:
        return np.zeros((args.batch_size, args.image_shape[0]), np.float32)
    rng = np.random.RandomState([args.seed, epoch, batch])
    weights = rng.normal(0, args.pca_noise, (args.batch_size, 3))
    return (weights * _EIGENVALUES @ _EIGENVECTORS.T).astype(np.float32)


def crops(args, epoch: int, batch: int, spare: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Where to crop each image of a batch, and whether to mirror it, for readers that do not draw.

    Drawn like `lighting`. Without --random-crop it is the centre, and an odd pixel is left out
    below and at the right, as ImageRecordIter does.

    Args:
        spare: (N, 2), by how many rows and columns each image is larger than the crop.

    Returns:
        Row and column of the upper left corner, (N, 2) integers, each place equally likely, and
        (N,) booleans.
    """
    rng = np.random.RandomState([args.seed, epoch, batch, 1])  # another than `lighting` has
    corners = rng.randint(spare + 1) if args.random_crop else spare // 2
    mirrored = rng.randint(2, size=len(spare)).astype(bool) & bool(args.random_mirror)
    return corners, mirrored


def check_args(args) -> None:
    """Refuse combinations that MXNet would ignore, or abort on.

    Raises:
        UserError: naming the flags.
    """
    on = active(args)
    if args.image_shape[0] == 1:
        for entry in _TABLE:
            if entry.colour and entry.flag in on:
                raise UserError(
                    f"{entry.flag}: changes colours, but --image-shape says grey images"
                )
    if "--random-resized-crop" in on:
        for other in _NOT_WITH_RESIZED_CROP:
            if other in on:
                raise UserError(f"--random-resized-crop and {other}: MXNet takes only one of them")
    _check_ranges(args, on)


def _check_ranges(args, on):
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
