"""Which images of an epoch a worker trains on, when several workers share each batch.

Worker r of n takes the r-th part of every batch.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Share:
    """Worker ``rank`` of ``size``; the whole by default."""

    rank: int = 0
    size: int = 1

    def positions(self, epoch: int, images: int, batch_size: int) -> np.ndarray:
        """The worker's images of an epoch, from 0 on, as their places in its order, which rise.

        The epoch has ``images``. ``batch_size`` is that of all workers together, a multiple of
        their number. Batches run on across epochs, so the places differ from epoch to epoch.
        """
        start = epoch * images
        in_batch = np.arange(start, start + images) % batch_size
        return np.flatnonzero(in_batch // (batch_size // self.size) == self.rank)

    def part(self, count: int) -> np.ndarray:
        """The worker's part of ``count`` records in their order; parts differ by one at most."""
        return np.array_split(np.arange(count), self.size)[self.rank]
