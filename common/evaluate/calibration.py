"""Whether probabilities are as often right as they say, and the temperature that mends it.

C. Guo et al., "On Calibration of Modern Neural Networks", 2017: networks say 90% where they are
right in 70%. A temperature, one number for a network, divides the logits before the softmax; the
order of the classes stays.
"""

from typing import List, Optional, Tuple

import numpy as np

from common.checkpoint import config
from common.cli import UserError

from .confusion import Confusion

_BINS = 15  # as in the paper
_LEAST = 1e-12  # of a probability, so that its logarithm is finite
_FROM, _TO = 0.05, 20.0  # temperatures that are tried


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax outputs (..., classes), as they are with the logits divided by ``temperature``."""
    powers = np.maximum(probabilities, _LEAST) ** (1 / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The expected calibration error of (N, classes) and N class numbers, 0 to 1.

    The images are put into 15 bins by the probability of their first guess; the difference of its
    mean and the share of right guesses is averaged over the images.
    """
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    return float(np.abs(np.bincount(bins, sure - right)).sum() / len(labels))


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least cross-entropy, to 1 part in 1,000, by golden sections."""

    def loss(log):
        true = scaled(probabilities, np.exp(log))[np.arange(len(labels)), labels]
        return -np.log(np.maximum(true, _LEAST)).mean()

    low, high = np.log(_FROM), np.log(_TO)
    golden = (5**0.5 - 1) / 2
    while high - low > 1e-3:
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(np.exp((low + high) / 2))


class Answers(Confusion):
    """Scores that also keep what a network says of each image: N x classes numbers."""

    def __init__(self, top_k: int, classes: List[str]):
        super().__init__(top_k, classes)
        self._said, self._labels = [], []

    def update(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Add n images: ``probabilities`` (n, classes), ``labels`` (n,) class numbers."""
        super().update(probabilities, labels)
        self._said.append(probabilities)
        self._labels.append(labels.astype(int))

    def all(self) -> Tuple[np.ndarray, np.ndarray]:
        """Probabilities and labels of all images: (N, classes), and (N,) int."""
        return np.concatenate(self._said), np.concatenate(self._labels)


def temperature(record: dict, epoch: int) -> Optional[float]:
    """The temperature that a config, ``record``, has for the checkpoint ``epoch``; None if none."""
    kept = record.get("calibration", {})
    return kept["temperature"] if kept.get("epoch") == epoch else None


def needed_temperature(prefix: str, epoch: int) -> float:
    """The temperature of a checkpoint; UserError if none has been fitted."""
    found = temperature(config.load_config(prefix), epoch)
    if found is None:
        raise UserError(
            f"--threshold: no temperature has been fitted to {prefix}, epoch {epoch}; python"
            f" score.py --model-prefix {prefix} --load-epoch {epoch} --fit-temperature"
            " --data-val X.rec does it, with images that it was not trained on"
        )
    return found


def describe(figures: dict, fitted: bool) -> str:
    """A line for people of what score.py's ``calibrate`` has found."""
    before, after = figures["calibration_error"], figures["calibration_error_with_temperature"]
    said = f"expected calibration error {before:.2%}, {after:.2%} with the temperature"
    where = ", which was fitted to these images" if fitted else ""
    return f"{said} {figures['temperature']:.3f}{where}"
