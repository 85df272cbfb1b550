"""The wrong guesses of which a network is most sure."""

from typing import List, NamedTuple

import numpy as np

from .scores import Scores


class Mistake(NamedTuple):
    """An image that is taken for another class."""

    share: float  # that the wrong class has
    number: int  # of the image
    label: int
    guess: int


class Mistakes(Scores):
    """Scores that keep the surest mistakes, the surest first."""

    def __init__(self, top_k: int, count: int):
        """Keep ``count`` of them."""
        super().__init__(top_k)
        self._kept = count
        self.mistakes: List[Mistake] = []

    def update(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Add the next n images: ``probabilities`` (n, classes), ``labels`` (n,) class numbers."""
        guesses = probabilities.argmax(axis=1)
        for i in np.flatnonzero(guesses != labels):
            share = float(probabilities[i, guesses[i]])
            found = Mistake(share, self.count + int(i), int(labels[i]), int(guesses[i]))
            self.mistakes.append(found)
        self.mistakes = sorted(self.mistakes, key=lambda one: (-one.share, one.number))
        del self.mistakes[self._kept :]
        super().update(probabilities, labels)
