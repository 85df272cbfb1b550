"""``--draw balanced``: each class has as many images in an epoch, those of small ones often."""

import numpy as np


def draw(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The numbers of ``count`` records in random order: each class equally often, give or take one.

    A class's record comes again only after all others of that class.
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
