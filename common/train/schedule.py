"""How long a run is, and the learning rate along it."""

import argparse
import dataclasses
from typing import Optional, Sequence, Tuple

from common.cli import UserError
from common.runtime.mxnet import mx

from .recipes import scaled_rate


@dataclasses.dataclass(frozen=True)
class Length:
    """The length of a run.

    Batches are cut from one endless sequence of epochs: the batch in which an epoch ends is filled
    up with the next epoch's first images.
    """

    images: int  # in an epoch
    batch_size: int  # images, over all devices together
    num_epochs: int

    def batches(self, epochs: int) -> int:
        """How many batches ``epochs`` epochs take."""
        return -(-epochs * self.images // self.batch_size)

    def position(self, batches: int) -> Tuple[int, int]:
        """After so many batches: how many epochs are complete, and images of the next are seen."""
        return divmod(batches * self.batch_size, self.images)


@dataclasses.dataclass(frozen=True)
class LearningRate:
    """The learning rate of each update.

    ``schedule`` is "step", "plateau" (see :class:`Plateau`), or "linear" or "cosine", which fall to
    0 at the end of the run.
    """

    base: float  # after the warm-up
    schedule: str = "step"
    step_epochs: Tuple[float, ...] = ()  # after which a step schedule multiplies it by ``factor``
    factor: float = 0.1
    warmup_epochs: float = 0.0  # during these the rate rises linearly from 0
    patience: Optional[int] = None  # of a plateau schedule, in epochs

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "LearningRate":
        """From the parsed flags."""
        steps, warmup = tuple(args.lr_step_epochs), args.warmup_epochs
        rate = scaled_rate(args)
        return cls(rate, args.lr_schedule, steps, args.lr_factor, warmup, args.lr_patience)

    def scheduler(self, length: Length) -> mx.lr_scheduler.LRScheduler:
        """MXNet's scheduler for a run of this length; UserError if two steps fall on one update."""
        updates = length.batches(length.num_epochs)
        an_epoch = updates / length.num_epochs
        # An update must be left after the warm-up: MXNet divides by their number.
        warmup = min(round(self.warmup_epochs * an_epoch), updates - 1)
        options = {"base_lr": self.base, "warmup_steps": warmup}
        if self.schedule == "linear":
            return mx.lr_scheduler.PolyScheduler(updates, pwr=1, **options)
        if self.schedule == "cosine":
            return mx.lr_scheduler.CosineScheduler(updates, **options)
        if self.schedule == "plateau":
            return Plateau(self.patience, self.factor, **options)
        steps = [max(1, round(epoch * an_epoch)) for epoch in self.step_epochs]
        if len(set(steps)) < len(steps):
            raise UserError(
                f"--lr-step-epochs: two steps fall on the same of {an_epoch:g} updates an epoch;"
                " leave one of them out"
            )
        return mx.lr_scheduler.MultiFactorScheduler(steps or [updates], self.factor, **options)


class Plateau(mx.lr_scheduler.LRScheduler):
    """The paper's rule: the rate is multiplied by ``factor`` when validation stops improving.

    That is after ``patience`` epochs without a better accuracy, and again after as many more.
    """

    def __init__(self, patience: int, factor: float, **options):
        super().__init__(**options)
        self._patience, self._factor, self._lowered = patience, factor, 0

    def __call__(self, num_update: int) -> float:
        """The rate of an update, counted from 1."""
        if num_update < self.warmup_steps:
            return self.get_warmup_lr(num_update)
        return self.base_lr * self._factor**self._lowered

    def heed(self, accuracies: Sequence[float]) -> bool:
        """Set the rate by the validation accuracies of all epochs so far; whether it changes."""
        before, self._lowered, waited = self._lowered, 0, 0
        for epoch, accuracy in enumerate(accuracies):
            better = accuracy > max(accuracies[:epoch], default=-1)
            waited = 0 if better else waited + 1
            if waited == self._patience:
                self._lowered, waited = self._lowered + 1, 0
        return self._lowered != before


def epochs_since_best(accuracies: Sequence[float]) -> int:
    """How many epochs the best accuracy lies back; of equal ones, the first is the best."""
    return len(accuracies) - 1 - accuracies.index(max(accuracies)) if accuracies else 0
