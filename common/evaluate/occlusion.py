"""Which region of a picture decides: parts of it are hidden, one after another.

M. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, 4.2.
"""

from typing import Iterator, List, NamedTuple, Tuple

import numpy as np

_PARTS = 6  # of a picture's side that a patch is
_STEPS = 3  # positions within a patch's side


class Occlusion(NamedTuple):
    """A square patch at each position of a grid over a prepared picture."""

    image: np.ndarray  # (C, H, W) float32
    patch: int  # its side in pixels
    corners: List[Tuple[int, int]]  # (top, left) of each position

    def hidden(self) -> Iterator[np.ndarray]:
        """The picture, then with the patch at each position, which has the mean colour there."""
        yield self.image
        for top, left in self.corners:
            covered = self.image.copy()
            covered[:, top : top + self.patch, left : left + self.patch] = 0
            yield covered

    def heat(self, drops: np.ndarray) -> np.ndarray:
        """(H, W): the mean of ``drops``, one a position, over the patches that cover a pixel."""
        total, count = np.zeros((2, *self.image.shape[1:]))
        for (top, left), drop in zip(self.corners, drops):
            place = slice(top, top + self.patch), slice(left, left + self.patch)
            total[place] += drop
            count[place] += 1
        return total / count


def plan(image: np.ndarray) -> Occlusion:
    """Positions for a prepared picture (C, H, W): they overlap, and cover it to its edges."""
    height, width = image.shape[1:]
    patch = max(1, min(height, width) // _PARTS)
    step = max(1, patch // _STEPS)
    tops, lefts = ([*range(0, side - patch, step), side - patch] for side in (height, width))
    return Occlusion(image, patch, [(top, left) for top in tops for left in lefts])
