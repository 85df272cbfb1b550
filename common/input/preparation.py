"""How a picture becomes a network's input: decoded, resized, cropped at the centre, normalised."""

import dataclasses
import math
from typing import Iterator, List, Mapping, Optional, Tuple

import numpy as np

from common.cli import UserError
from common.io.opencv import cv2
from common.records import picture
from common.records.format import read_image
from common.records.identity import record_files
from common.records.scan import Records
from common.records.walk import open_records

_LARGE = 1 << 24  # pixels; few pictures become larger when they are resized


@dataclasses.dataclass(frozen=True)
class Preparation:
    """The preparation that a network was trained with; a checkpoint's record holds it."""

    image_shape: Tuple[int, int, int]  # (channels, height, width) of the network's input
    resize: Optional[int]  # length of the short side in pixels before the crop; None: as it is
    mean: Tuple[float, ...]  # of R, G, B, in grey levels 0 to 255; it is subtracted
    std: Tuple[float, ...]  # of each channel; the difference is divided by it

    @classmethod
    def from_args(cls, args: Mapping) -> "Preparation":
        """From training arguments: ``vars(args)``, or the ``args`` of a checkpoint's record."""
        return cls(
            tuple(args["image_shape"]),
            args["resize"],
            tuple(args["rgb_mean"]),
            tuple(args["rgb_std"]),
        )

    @property
    def channels(self) -> int:
        """1 for grey pictures, 3 for colour."""
        return self.image_shape[0]

    def decode(
        self,
        encoded: bytes,
        source: str,
        max_pixels: int = picture.MAX_PIXELS,
        changes: Optional[List[str]] = None,
    ) -> np.ndarray:
        """The picture in ``encoded`` bytes: (H, W, 3) BGR, or (H, W) grey for 1 channel; uint8.

        ``changes`` is extended by what its pixels needed; see :func:`picture.decode`. What that
        refuses is a UserError here, which begins with ``source``.
        """
        try:
            return picture.decode(encoded, self.channels == 1, max_pixels, changes)
        except picture.Unreadable as cause:
            raise UserError(f"{source}: {cause}")

    def apply(self, image: np.ndarray) -> np.ndarray:
        """What the network sees of a picture: short side resized, centre crop, normalised.

        ``image`` is (H, W, 3) BGR, or (H, W) grey for networks of one channel; uint8. It becomes
        (C, H, W) float32, R, G, B: what ImageRecordIter makes of the same picture.
        """
        channels, height, width = self.image_shape
        if self.resize is not None:
            image = self._scaled(image, self.resize / min(image.shape[:2]))
        enlargement = max(height / image.shape[0], width / image.shape[1])
        if enlargement > 1:  # the picture is smaller than the crop
            image = self._scaled(image, enlargement)
        crop = picture.centre(image, height, width).reshape(height, width, channels)
        planes = np.array(crop[:, :, ::-1].transpose(2, 0, 1), np.float32, order="C")
        planes -= np.float32(self.mean)[:, None, None]
        planes /= np.float32(self.std)[:, None, None]
        return planes

    def shown(self, planes: np.ndarray) -> np.ndarray:
        """What :meth:`apply` made, (C, H, W), as a picture again: (H, W, 3) uint8, R, G, B."""
        levels = planes * np.float32(self.std)[:, None, None] + np.float32(self.mean)[:, None, None]
        pixels = levels.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3))

    def _scaled(self, image, factor):
        """Resize ``image``; of what would become very large, only what the crop may show."""
        height, width = image.shape[:2]
        if factor > 1 and height * width * factor**2 > _LARGE:
            # An even number of rows and columns goes, so that the centre stays where it is.
            shown = [math.ceil(side / factor) + 4 for side in self.image_shape[1:]]
            kept = [side - max(0, side - n) // 2 * 2 for side, n in zip((height, width), shown)]
            image = picture.centre(image, *kept)
            height, width = kept
        size = max(1, int(width * factor + 1e-6)), max(1, int(height * factor + 1e-6))
        return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def read_file(path: str) -> bytes:
    """The bytes of a file; UserError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}")
    except ValueError as error:  # such as a null byte in the path
        raise UserError(f"{path!r}: {error}")


def sample_images(found: Records, count: int, preparation: Preparation) -> Iterator[np.ndarray]:
    """Up to ``count`` images of a record file, each (C, H, W) float32, the same ones each time.

    They are drawn from the whole file, which may be sorted by class.
    """
    chosen = np.sort(np.random.RandomState(0).permutation(len(found))[:count])
    yield from images_at(found, chosen, preparation)


def images_at(found: Records, chosen: np.ndarray, preparation: Preparation) -> Iterator[np.ndarray]:
    """The images of a record file with the numbers ``chosen``, which rise: each (C, H, W) float32.

    UserError if a record's image is damaged.
    """
    start = 0  # of a file in its set
    for file in record_files(found.path):
        with open_records(file) as content:
            inside = np.searchsorted(found.offsets[chosen], [start, start + len(content)])
            for i in chosen[slice(*inside)].tolist():
                encoded = read_image(content, int(found.offsets[i]) - start)
                yield preparation.apply(preparation.decode(encoded, f"{found.path}: record {i}"))
            start += len(content)
