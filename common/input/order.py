"""The order of an epoch's images: as one process reads them, and with each class equally often.

Workers that read parts of an epoch ask for the former: so n of them train the very batches that one
process would, in the same light.
"""

from typing import Iterator

import numpy as np

from .training_data import TrainingData

_MAGIC = 111  # MXNet adds it to the seed: kRandMagic in src/io/iter_image_recordio_2.cc
# How many images are read at most before an epoch begins. Every iterator draws the same sequence of
# crops and mirrors; an offset into it, different for each epoch, varies them.
_MAX_OFFSET = 1024


def offset(seed: int, batch_size: int) -> int:
    """How many batches ImageRecordIter reads before an epoch with this seed."""
    return seed % max(1, _MAX_OFFSET // batch_size)


def order(data: TrainingData, epoch: int) -> np.ndarray:
    """The numbers of all records in the order in which one process would read them."""
    seed, count = data.augmentation.epoch_seed(epoch), len(data.records)
    passes = -(-offset(seed, data.batch_size) // -(-count // data.batch_size))
    in_file = np.argsort(data.records.offsets, kind="stable")
    return in_file[shuffled(count, seed, passes)]


def shuffled(count: int, seed: int, passes: int) -> np.ndarray:
    """The order in which ImageRecordIter reads ``count`` records after so many earlier passes.

    It shuffles by the method of Fisher and Yates, with the Mersenne Twister and whole numbers drawn
    as GNU's C++ library did before version 11. The tests hold this to what MXNet reads.
    """
    draws, numbers = _raw(_MAGIC + seed), []
    for _ in range(passes + 1):
        numbers = list(range(count))
        for last in range(1, count):
            other = _below(last + 1, draws)
            numbers[last], numbers[other] = numbers[other], numbers[last]
    return np.array(numbers, np.int64)


def _raw(seed) -> Iterator[int]:
    generator = np.random.RandomState(seed % 2**32)
    while True:
        yield from generator.randint(0, 2**32, 1 << 14, np.uint32).tolist()


def _below(limit, draws) -> int:
    width = (2**32 - 1) // limit
    return next(x for x in draws if x < width * limit) // width


def lighting(data: TrainingData, epoch: int, positions: np.ndarray) -> np.ndarray:
    """What one process would add to the images at these places of an epoch, (N, C) float32."""
    size, channels = data.batch_size, data.batch_shape[1]
    light = np.empty((len(positions), channels), np.float32)
    for number in np.unique(positions // size):
        rows = positions // size == number
        drawn = data.augmentation.lighting((size, channels), epoch, int(number))
        light[rows] = drawn[positions[rows] % size]
    return light


def balanced(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``--draw balanced``: the numbers of ``count`` records in random order, each class equally
    often, give or take one. A class's record comes again only after all others of that class.
    """
    rng = np.random.RandomState(seed)
    classes = rng.permutation(np.unique(labels))
    drawn = []
    for place, label in enumerate(classes):
        own = np.flatnonzero(labels == label)
        wanted = count // len(classes) + (place < count % len(classes))
        rounds = [rng.permutation(own) for _ in range(-(-wanted // len(own)))]
        drawn.extend(np.concatenate(rounds)[:wanted] if rounds else [])
    return rng.permutation(np.array(drawn, np.int64))
