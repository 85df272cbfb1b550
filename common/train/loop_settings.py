"""What the training loop does besides training."""

import argparse
import dataclasses
from typing import Optional

from .diagnosis import cause_of_overflow, cause_of_standstill


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """What the loop does besides training.

    Attributes:
        seed: of dropout.
        top_k: the k of the accuracy that is reported besides top-1.
        disp_batches: batches between two lines of progress.
        skip_nonfinite: how many batches may be skipped because their loss is not finite.
        check_gradients: also skip a batch whose gradients are beyond float16's range.
        monitor: batches between two prints of all tensors' norms; 0: none.
        stop_patience: epochs without better validation after which the run ends; None: never.
        accumulate: parts in which a batch is computed.
        overflow: why loss or weights would not be finite.
        standstill: why the loss would not fall.
    """

    seed: int = 0
    top_k: int = 5
    disp_batches: int = 20
    skip_nonfinite: int = 0
    check_gradients: bool = False
    monitor: int = 0
    stop_patience: Optional[int] = None
    accumulate: int = 1
    overflow: str = "lower --lr"
    standstill: str = ""

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "LoopSettings":
        """From the parsed flags."""
        half = args.dtype == "float16"
        nonfinite, disp = args.skip_nonfinite, args.disp_batches
        causes = cause_of_overflow(vars(args)), cause_of_standstill(vars(args))
        more = args.monitor, args.stop_patience, args.accumulate, *causes
        return cls(args.seed, args.top_k, disp, nonfinite, half, *more)
