"""What the training loop does besides training."""

import argparse
import dataclasses
from typing import Optional

from .diagnosis import cause_of_overflow, cause_of_standstill


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """What the loop does besides training."""

    seed: int = 0  # of dropout
    top_k: int = 5  # the k of the accuracy that is reported besides top-1
    disp_batches: int = 20  # between two lines of progress
    skip_nonfinite: int = 0  # how many batches may be skipped because their loss is not finite
    check_gradients: bool = False  # also skip a batch whose gradients are beyond float16's range
    monitor: int = 0  # batches between two prints of all tensors' norms; 0: none
    stop_patience: Optional[int] = None  # epochs without better validation that end the run
    accumulate: int = 1  # parts in which a batch is computed
    overflow: str = "lower --lr"  # why loss or weights would not be finite
    standstill: str = ""  # why the loss would not fall

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "LoopSettings":
        """From the parsed flags."""
        half = args.dtype == "float16"
        nonfinite, disp = args.skip_nonfinite, args.disp_batches
        causes = cause_of_overflow(vars(args)), cause_of_standstill(vars(args))
        more = args.monitor, args.stop_patience, args.accumulate, *causes
        return cls(args.seed, args.top_k, disp, nonfinite, half, *more)
