"""How long a run is, and the learning rate along it."""

import argparse
import dataclasses
from typing import Optional, Tuple

from common.cli import UserError
from common.runtime.mxnet import mx


@dataclasses.dataclass(frozen=True)
class Length:
    """The length of a run.

    Batches are cut from one endless sequence of epochs: the batch in which an epoch ends is filled
    up with the next epoch's first images.

    Attributes:
        images: in an epoch.
        batch_size: images in a batch, over all devices together.
        num_epochs: in the run.
    """

    images: int
    batch_size: int
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

    Attributes:
        base: after the warm-up.
        schedule: "step", or "linear" or "cosine", which fall to 0 at the end of the run.
        step_epochs: after how many epochs a step schedule multiplies the rate by ``factor``.
        warmup_epochs: during these the rate rises linearly from 0.
    """

    base: float
    schedule: str = "step"
    step_epochs: Tuple[float, ...] = ()
    factor: float = 0.1
    warmup_epochs: float = 0.0

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "LearningRate":
        """From the parsed flags."""
        steps = tuple(args.lr_step_epochs)
        return cls(args.lr, args.lr_schedule, steps, args.lr_factor, args.warmup_epochs)

    def scheduler(self, length: Length) -> Optional[mx.lr_scheduler.LRScheduler]:
        """MXNet's scheduler for a run of this length; None if the rate is constant.

        Raises:
            UserError: two steps fall on the same update.
        """
        updates = length.batches(length.num_epochs)
        an_epoch = updates / length.num_epochs
        # An update must be left after the warm-up: MXNet divides by their number.
        warmup = min(round(self.warmup_epochs * an_epoch), updates - 1)
        options = {"base_lr": self.base, "warmup_steps": warmup}
        if self.schedule == "linear":
            return mx.lr_scheduler.PolyScheduler(updates, pwr=1, **options)
        if self.schedule == "cosine":
            return mx.lr_scheduler.CosineScheduler(updates, **options)
        steps = [max(1, round(epoch * an_epoch)) for epoch in self.step_epochs]
        if len(set(steps)) < len(steps):
            raise UserError(
                f"--lr-step-epochs: two steps fall on the same of {an_epoch:g} updates an epoch;"
                " leave one of them out"
            )
        if not steps and not warmup:
            return None
        return mx.lr_scheduler.MultiFactorScheduler(steps or [updates], self.factor, **options)
