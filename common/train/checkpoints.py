"""Which checkpoints a run writes, and which it deletes.

``PREFIX-NNNN`` is written after every ``save_period`` epochs and after the last one;
``PREFIX-partial-UUUU`` holds the newest state in between. A kill at any moment leaves a checkpoint
that --resume finds:

====================================  =====================================================
killed                                the next run
====================================  =====================================================
while a checkpoint is written         resumes from the one before; removes the temporary files
before the old ones are deleted       resumes from it; deletes them
while the epoch was validated         resumes from it; validates and reports the epoch first
====================================  =====================================================
"""

import argparse
import contextlib
import dataclasses
import sys
import time
from typing import Any, Iterator, Mapping, Optional, Tuple

import numpy as np

from common.checkpoint import store
from common.cli import UserError
from common.runtime.mxnet import mx

from .diagnosis import cause_of_overflow
from .module_state import optimizer_state, weights
from .resume import State
from .schedule import Length


@dataclasses.dataclass(eq=False)
class Checkpoints:
    """The checkpoints of one run."""

    symbol: mx.sym.Symbol  # the plain network, which they hold
    length: Length
    prefix: Optional[str] = None  # None to write none
    save_period: int = 1  # in epochs
    save_minutes: Optional[float] = None  # also save in the middle of an epoch, this often
    keep: Optional[int] = None  # how many of the newest stay, besides the best one; None: all
    args: Mapping = dataclasses.field(default_factory=dict)  # the run's
    fingerprint: Optional[str] = None  # of the training records; None for synthetic images
    frozen: Tuple[dict, dict] = ({}, {})  # (arg_params, aux_params) that the trained module lacks
    place: Optional[Tuple[str, int]] = None  # prefix and number that hold the current state
    saved_at: float = dataclasses.field(default_factory=time.monotonic)

    @classmethod
    def from_args(
        cls, args: argparse.Namespace, symbol: mx.sym.Symbol, length: Length, **more: Any
    ) -> "Checkpoints":
        """From the parsed flags; ``more``: the fields from ``fingerprint`` on."""
        minutes, keep = args.save_minutes, args.keep
        settings = args.model_prefix, args.save_period, minutes, keep, vars(args)
        return cls(symbol, length, *settings, **more)

    @property
    def are_kept(self) -> bool:
        """Whether any are written."""
        return self.prefix is not None

    @property
    def of_epoch(self) -> bool:
        """Whether the current state is saved under the number of an epoch."""
        return self.place is not None and self.place[0] == self.prefix

    def is_due(self) -> bool:
        """Whether it is time to save in the middle of an epoch."""
        minutes = self.save_minutes
        return minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes

    def save(
        self,
        module: mx.mod.Module,
        state: State,
        epoch: Optional[int] = None,
        must: bool = False,
        last: bool = False,
    ) -> Optional[str]:
        """Save the current state; the weights' file, or None where no checkpoints are written.

        UserError if weights are not finite, or the files cannot be written but must be.

        Args:
            epoch: the one that has just ended; None in the middle of an epoch.
            must: a failure is an error; otherwise it is a warning, and training continues.
            last: the run ends with this epoch, so it is saved whatever ``save_period`` says.
        """
        if not self.are_kept:
            return None
        self.saved_at = time.monotonic()
        network = [{**kept, **own} for kept, own in zip(self.frozen, weights(module))]
        if not all(map(are_finite, network)):
            raise UserError(
                f"batch {state.batches} of the run: weights are not finite; likely cause:"
                f" {cause_of_overflow(self.args)}; --resume continues from before"
            )
        place = self._place(state, epoch, last)
        date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        record = {"args": self.args, "data": self.fingerprint, "date": date}
        with _writing(must):
            store.save(
                *place, self.symbol, *network, optimizer_state(module), **record, **vars(state)
            )
            self.place = place
            self.delete_needless(state)
        return store.params_path(*place)

    def _place(self, state, epoch, last):
        """The prefix and number of the current state."""
        if epoch and (epoch % self.save_period == 0 or last):
            return self.prefix, epoch
        return store.partial(self.prefix), state.batches

    def report(self, state: State, must: bool) -> None:
        """Write to the record how the epoch was validated, and which is the best so far."""
        if self.place:
            with _writing(must):
                store.update_record(*self.place, **vars(state))
                self.delete_needless(state)

    def delete_needless(self, state: State) -> None:
        """Delete the checkpoints that the one at ``place`` makes needless."""
        prefix, number = self.place
        partial = store.partial(self.prefix)
        store.remove(partial, keep=(number,) if prefix == partial else ())
        if self.keep:
            epochs, _ = self.length.position(state.batches)
            saved = [n for n in store.numbers(self.prefix) if n <= epochs]
            best = [state.best["epoch"]] if state.best else []
            store.remove(self.prefix, keep=saved[-self.keep :] + best)


@contextlib.contextmanager
def _writing(must) -> Iterator[None]:
    try:
        yield
    except (UserError, OSError) as error:
        if must:
            raise
        print(f"warning: {error}; training continues, and the next save is tried", file=sys.stderr)


def are_finite(arrays: Mapping[str, mx.nd.NDArray]) -> bool:
    """Whether all numbers of all arrays are finite."""
    return all(np.isfinite(array.asnumpy()).all() for array in arrays.values())
