"""--tensorboard DIR: what TensorBoard shows of a run: curves, histograms, pictures, arguments.

Steps are batches of the run. A resumed run writes another file, which tells TensorBoard from which
step on it replaces what earlier ones say (session_log.START, as tf.summary.create_file_writer's
readers expect it), so that curves never go back. Each event is on disk once it is written: a kill
loses none.
"""

import argparse
import contextlib
import glob
import os
import sys
import time
from typing import Any, Iterator, Mapping, Optional

import numpy as np

from common.cli import UserError
from common.draw import tiles
from common.evaluate.evaluator import Evaluator
from common.evaluate.mistakes import Mistakes
from common.evaluate.network import first_kernels
from common.evaluate.scores import Scores
from common.input.preparation import images_at
from common.io.opencv import cv2
from common.runtime.mxnet import mx

from .module_state import weights
from .resume import State

_VALUES = 100_000  # of a weight that its histogram counts, evenly spread: fc1 has 38 million
_BINS = 64
_MISTAKES = 12  # pictures


def check_args(args: argparse.Namespace) -> None:
    """Raise UserError if --tensorboard's events cannot be written; only reads."""
    folder = args.tensorboard
    if folder is None:
        return
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise UserError("--tensorboard: needs tensorboardX; pip install '.[tensorboard]'")
    above = os.path.abspath(folder)
    while not os.path.exists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above) or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"--tensorboard {folder}: {above} is no folder that can be written to")
    going_on = args.resume or args.load_epoch is not None or args.overwrite
    if glob.glob(os.path.join(glob.escape(folder), "events.out.tfevents.*")) and not going_on:
        raise UserError(
            f"--tensorboard {folder}: has the events of an earlier run; take another folder, or"
            " --overwrite, with which TensorBoard no longer shows them"
        )


class Board:
    """The event file of one start of a run. Without a folder nothing is written."""

    def __init__(
        self,
        folder: Optional[str] = None,
        args: Optional[Mapping] = None,
        symbol: Optional[mx.sym.Symbol] = None,
        state: Optional[State] = None,
        evaluator: Optional[Evaluator] = None,
    ):
        """``args``: the run's; ``symbol``: the plain network; ``state``: where the run starts."""
        self._file: Any = None
        self._symbol, self._evaluator = symbol, evaluator
        if folder is None or args is None or state is None:
            return
        from tensorboardX.event_file_writer import EventsWriter

        self._period, self._top_k = args["disp_batches"], args["top_k"]
        self._since, self._before = time.monotonic(), state.scores or Scores().state()
        first = state.batches + (1 if state.reported and state.batches else 0)  # to come (again)
        os.makedirs(folder, exist_ok=True)
        self._file = EventsWriter(os.path.join(folder, "events"), f".{first}")
        with self._writing():
            self._start(first, args)

    def _start(self, first, args):
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.summary import hparams

        self._event(first, session_log=SessionLog(status=SessionLog.START))
        plain = {
            name: value if isinstance(value, (bool, int, float)) else str(value)
            for name, value in args.items()
            if value is not None
        }
        for summary in hparams(plain, {"top-1/val": 0})[:2]:  # the third one says that it ended
            self._event(first, summary=summary)

    def scores(self, top_k: int) -> Scores:
        """For the validation of an epoch; give them to :meth:`epoch`."""
        return Mistakes(top_k, _MISTAKES) if self._file else Scores(top_k)

    def batch(self, step: int, scores: Scores, optimizer: mx.optimizer.Optimizer) -> None:
        """Every --disp-batches: what the images since the last time say, and how fast they were."""
        if not self._file or step % self._period:
            return
        state, now = scores.state(), time.monotonic()
        before = self._before if self._before[0] < state[0] else [0] * len(state)  # a new epoch
        part = Scores(self._top_k)
        part.restore([own - other for own, other in zip(state, before)])
        figures = {f"{name}/train": value for name, value in part.figures().items()}
        figures["img/s"] = part.count / (now - self._since)
        self._before, self._since = state, now
        with self._writing():
            self._scalars(step, {**figures, "learning_rate": optimizer.learning_rate})

    def epoch(
        self, step: int, module: mx.mod.Module, scores: Scores, gradients: bool = True
    ) -> None:
        """After an epoch: its validation, if there was one, histograms, kernels and mistakes.

        ``gradients``: whether the module has any.
        """
        if not self._file:
            return
        network = (self._symbol, *weights(module))
        with self._writing():
            if isinstance(scores, Mistakes) and scores.count:
                self._scalars(step, {f"{n}/val": v for n, v in scores.figures().items()})
                self._mistakes(step, scores.mistakes)
            self._histograms(step, "weights", network[1])
            group = module._exec_group
            if gradients:
                arrays = {n: a[0] for n, a in zip(group.param_names, group.grad_arrays)}
                self._histograms(step, "gradients", arrays)
            with contextlib.suppress(UserError):  # has no convolution
                _, kernels = first_kernels(network)
                shown = tiles.kernel_tiles(kernels.astype(np.float32))
                self._image(step, "kernels", tiles.sheet(shown, 16, least=24))
        self._since = time.monotonic()  # validation is not counted as training

    def _mistakes(self, step, mistakes):
        """The surest mistakes: the true class, and what it was taken for."""
        if not mistakes or self._evaluator is None:
            return
        records, preparation = self._evaluator.records, self._evaluator.preparation
        rows = sorted(mistakes, key=lambda mistake: mistake.number)
        images = images_at(records, np.array([row.number for row in rows]), preparation)
        most = max(max(row.label, row.guess) for row in rows)
        names = records.classes or [str(i) for i in range(1 + most)]
        pages = []
        for row, image in zip(rows, images):
            text = [f"{names[row.label]}, taken for", f"{names[row.guess]} {row.share:.0%}"]
            pages.append(tiles.captioned(preparation.shown(image), text))
        self._image(step, "mistakes", tiles.sheet(np.stack(pages), 4))

    def _scalars(self, step, figures):
        from tensorboardX.summary import scalar

        for name, value in figures.items():
            self._event(step, summary=scalar(name, value))

    def _histograms(self, step, kind, arrays):
        from tensorboardX.summary import histogram

        for name, array in arrays.items():
            if array is None:
                continue  # the gradient of a weight that is frozen
            values = array.reshape(-1).asnumpy().astype(np.float64)
            values = values[:: -(-len(values) // _VALUES)]
            values = values[np.isfinite(values)]
            if len(values):
                self._event(step, summary=histogram(f"{kind}/{name}", values, _BINS))

    def _image(self, step, name, pixels):
        from tensorboardX.proto.summary_pb2 import Summary

        encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1].tobytes()
        size = dict(height=pixels.shape[0], width=pixels.shape[1], colorspace=3)
        image = Summary.Image(encoded_image_string=encoded, **size)
        self._event(step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def _event(self, step, **content):
        from tensorboardX.proto.event_pb2 import Event

        self._file.write_event(Event(wall_time=time.time(), step=step, **content))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Events that cannot be written are no reason to end a run."""
        try:
            yield
            self._file.flush()
        except OSError as error:
            print(f"warning: --tensorboard: {error.strerror}; no more is written", file=sys.stderr)
            self._file = None
