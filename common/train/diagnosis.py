"""Why a network does not learn: the cause that the flags make likely."""

from typing import Mapping, Optional

import numpy as np

from common.cli import UserError
from common.evaluate.scores import Scores
from common.input.training_data import TrainingData

from . import finetune
from .recipes import recipe

_PIXELS = 60  # by how many grey levels photographs' pixels differ from their mean
# Weights of about .01, whatever a layer's size: inputs of 60
_FIXED = ("paper", "caffe", "caffenet", "normal")
_SCALED = ("msra", "xavier", "orthogonal")  # layers keep the scale of what they read: inputs of 1


def cause_of_overflow(args: Mapping) -> str:
    """Why loss or weights are not finite, and what to do, by the run's arguments."""
    scale = _input(args)
    return f"{scale}, or lower --lr" if scale else f"--lr {args['lr']:g} is too high; lower --lr"


def cause_of_standstill(args: Mapping) -> str:
    """Why the loss does not fall, and what to do, by the run's arguments."""
    usual = recipe(args["network"], args["dataset"]).settings
    rate, name = args["lr"], args["initializer"]
    if _input(args):
        return _input(args)
    if not usual["lr"] / 2 <= rate <= usual["lr"] * 2:
        direction = "lower" if rate > usual["lr"] else "raise"
        return f"--lr {rate:g} in place of the recipe's {usual['lr']:g}; {direction} it"
    if name != usual["initializer"] and not args["pretrained"]:
        return f"--initializer {name} in place of the recipe's {usual['initializer']}"
    return "the flags say nothing; look whether the labels fit the images, or try another --lr"


def _input(args) -> Optional[str]:
    """What is wrong with the scale of the input, for these initial weights; None: nothing."""
    if args["pretrained"]:
        source = finetune.source_config(args["pretrained"])
        if source is None:
            prefix = args["pretrained"]
            return f"--rgb-mean, --rgb-std: {prefix} has no record of its own; give them"
        other = finetune.other_preparation(args, source["args"])
        return f"{other}: not what --pretrained was trained with; leave it out" if other else None
    name, std = args["initializer"], float(np.mean(args["rgb_std"]))
    if name in _FIXED and std > _PIXELS / 6:
        return f"--initializer {name} is for --rgb-std 1, not {std:g}; give that, or msra"
    if name in _SCALED and std < _PIXELS / 6:
        return f"--initializer {name} is for --rgb-std {_PIXELS}, not {std:g}; give that, or paper"
    return None


class Divergence:
    """Ends a run whose loss is far above that of guessing after its first batches.

    No rate that only falls from there mends that, and an epoch may take hours.
    """

    BATCHES, WORSE = 50, 5.0  # in nats: the true class gets 1/150 of what guessing gives it

    def __init__(self, num_classes: int, cause: str):
        self._guessing, self._cause = np.log(num_classes), cause
        self._scores = Scores()

    def check(self, number: int, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Count batch ``number``, from 0, if it is of the second half of the first BATCHES.

        UserError if it is the last of them, and their mean loss is too high.
        """
        if not self.BATCHES / 2 <= number < self.BATCHES:
            return
        self._scores.update(probabilities, labels)
        if number + 1 == self.BATCHES and self._scores.loss > self._guessing + self.WORSE:
            raise UserError(
                f"after {self.BATCHES} batches the loss is {self._scores.loss:.1f}, far above that"
                f" of guessing, {self._guessing:.1f}; likely cause: {self._cause}"
            )


class Standstill:
    """Notices a loss that is that of guessing after a run's first batches."""

    def __init__(self, data: TrainingData, warmup: int = 0):
        """``warmup``: batches with a rising learning rate, which do not count."""
        share = np.bincount(data.records.labels.astype(int)) / len(data.records)
        share = share[share > 0]
        if data.balanced:
            share[:] = 1 / len(share)
        # From guessing by the classes' frequencies to guessing as if they were all the same.
        self._low, self._high = -(share * np.log(share)).sum(), np.log(data.num_classes)
        self.batches = warmup + max(200, 2 * data.num_classes)
        self._scores = Scores()

    def is_seen(self, number: int, probabilities: np.ndarray, labels: np.ndarray) -> bool:
        """Whether batch ``number``, from 0, ends the first ones, and the loss is that of guessing.

        The mean over the second half of these batches counts.
        """
        if not self.batches / 2 <= number + 1 <= self.batches:
            return False
        self._scores.update(probabilities, labels)
        return (
            number + 1 == self.batches
            and 0.99 * self._low <= self._scores.loss <= 1.03 * self._high
        )
