"""The training loop around ``mx.mod.Module``."""

import argparse
import dataclasses
import time
from typing import Iterator, Optional

import numpy as np

from common.checkpoint import store
from common.cli import UserError
from common.evaluate.evaluator import Evaluator
from common.evaluate.scores import Scores
from common.graph.graph import Graph
from common.input import pipeline
from common.input.training_data import TrainingData
from common.io.heartbeat import beat
from common.io.log import Forecast, Progress, RunLog, describe
from common.io.signals import Stop
from common.runtime.mxnet import mx

from .board import Board
from .checkpoints import Checkpoints, are_finite
from .cluster import Cluster
from .diagnosis import Divergence, Standstill, cause_of_overflow, cause_of_standstill
from .gradients import Gradients
from .module_state import auxiliary_states, weights
from .resume import State, seed_dropout
from .schedule import Length, Plateau, epochs_since_best

_RANDOM = ("Dropout", "_random_uniform_like")  # operators


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """What the loop does besides training."""

    seed: int = 0  # of dropout
    top_k: int = 5  # the k of the accuracy that is reported besides top-1
    disp_batches: int = 20  # between two lines of progress
    skip_nonfinite: int = 0  # how many batches may be skipped because their loss is not finite
    check_gradients: bool = False  # also skip a batch whose gradients are beyond float16's range
    stop_patience: Optional[int] = None  # epochs without better validation that end the run
    accumulate: int = 1  # parts in which a batch is computed
    overflow: str = "lower --lr"  # why loss or weights would not be finite
    standstill: str = ""  # why the loss would not fall

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "LoopSettings":
        """From the parsed flags."""
        causes = cause_of_overflow(vars(args)), cause_of_standstill(vars(args))
        skip, half = args.skip_nonfinite, args.dtype == "float16"
        more = args.stop_patience, args.accumulate, *causes
        return cls(args.seed, args.top_k, args.disp_batches, skip, half, *more)


class Run:
    """A training run: the loop, what it says, and when it saves.

    ``module`` is bound, with weights and an optimizer; ``state``, where the run is, changes with
    each batch; ``cluster`` are the workers that run it together.
    """

    def __init__(
        self,
        module: mx.mod.Module,
        data: TrainingData,
        length: Length,
        settings: LoopSettings,
        checkpoints: Checkpoints,
        log: RunLog,
        state: State,
        cluster: Cluster,
        board: Optional[Board] = None,
    ):
        self.module, self.data, self.length, self.settings = module, data, length, settings
        self.checkpoints, self.log, self.state = checkpoints, log, state
        self.cluster, self.stop_agreed = cluster, 0
        self.board = board or Board()
        self.gradients = Gradients(module, settings.accumulate, data.class_weights)
        self.is_random = any(node.op in _RANDOM for node in Graph(module.symbol).nodes)
        self.scores = Scores(settings.top_k)
        if state.scores and (cluster.in_step or cluster.is_first):
            self.scores.restore(state.scores)
        self.stop = Stop(log.say)
        cluster.signal = self._signal
        self.forecast = self._forecast()
        scheduler = module._optimizer.lr_scheduler
        self.plateau = scheduler if isinstance(scheduler, Plateau) else None
        if self.plateau and self.plateau.heed(state.validated):
            cluster.renew(module)
        warmup = scheduler.warmup_steps if scheduler else 0
        is_plain = data.records and data.class_weights is None  # else the loss says less
        self.standstill = is_plain and Standstill(data, warmup)
        self.divergence = Divergence(data.num_classes, settings.overflow)

    def train(self, batches: Iterator, evaluator: Optional[Evaluator] = None) -> int:
        """Train all epochs that are left, or until validation stops improving; how many are done.

        ``batches`` is endless, from where the run is; ``evaluator`` scores the weights after each
        epoch. UserError if a loss is not finite, an image cannot be decoded, or the last checkpoint
        cannot be written.
        """
        state, length = self.state, self.length
        done, _ = length.position(state.batches)
        if state.batches and done >= length.num_epochs:
            self.log.say(f"the checkpoint has {done} epochs already; --num-epochs asks for no more")
        if self.checkpoints.place:
            self.checkpoints.delete_needless(state)  # a kill may have come before it
        with self.stop:
            if not state.reported and state.batches == length.batches(done):
                self._report(done, evaluator)  # the run was stopped while it validated
            for epoch in range(done + 1, length.num_epochs + 1):
                if state.batches == length.batches(epoch - 1) and self._has_enough(epoch - 1):
                    break
                self._train_epoch(epoch, batches)
                state.reported = False
                self._save(epoch, last=epoch == length.num_epochs)
                if self._stopping:
                    self._leave()
                self._report(epoch, evaluator)
        return length.position(state.batches)[0]

    def _has_enough(self, epoch):
        """Whether --stop-patience ends the run after ``epoch``, which is then saved as the last."""
        state, patience = self.state, self.settings.stop_patience
        waited = epochs_since_best(state.validated)
        if patience is None or waited < patience:
            return False
        if self.checkpoints.are_kept and not self.checkpoints.of_epoch:
            self._save(epoch, last=True)
        self.log.say(
            f"stopped after epoch {epoch}: no better validation accuracy for {waited} epochs; a"
            " greater --stop-patience continues"
        )
        return True

    def _train_epoch(self, epoch, batches):
        state, length = self.state, self.length
        start, end = length.batches(epoch - 1), length.batches(epoch)
        if state.batches == start:
            self.scores, state.seconds = Scores(self.settings.top_k), 0.0
        title = f"epoch {epoch}/{length.num_epochs}"
        past = state.batches - start
        seen = past * length.batch_size
        started = time.monotonic() - state.seconds
        period = self.settings.disp_batches
        with Progress(self.log, title, length.images, period, past, seen, epoch) as progress:
            for batch in pipeline.take(batches, self.data.name, end - state.batches):
                before = state.seconds
                self._step(batch, title)
                state.seconds = time.monotonic() - started
                self.forecast.update(state.seconds - before)
                progress.update(length.batch_size, **self.scores.figures())
                self.board.batch(state.batches, self.scores, self.module._optimizer)
                if state.batches < end and self.checkpoints.is_due():
                    self._save()
                if state.batches < end and self._stopping:
                    break
        self._meet()
        state.seconds = time.monotonic() - started
        if state.batches < end:
            if self.checkpoints.place is None:
                self._save()
            self._leave()

    def _meet(self):
        """Put together what workers have done that were not in step; else nothing changes."""
        own = [self.state.batches, self.stop_agreed, *self.scores.state()]
        rows = self.cluster.meet(own, self.module)
        self.state.batches = int(rows[:, 0].mean())
        self.stop_agreed = int(rows[:, 1].max())
        self.scores.restore(rows[:, 2:].sum(axis=0))

    def _step(self, batch, title):
        if self.is_random:  # a worker's part of a batch is dropped otherwise than another's
            share = self.cluster.share
            seed_dropout(self.settings.seed, self.state.batches * share.size + share.rank)
        before = [array.copy() for array in auxiliary_states(self.module)]
        probabilities, labels = self.gradients.compute(batch), batch.label[0].asnumpy()
        finite, scores = self._agree(probabilities, labels)
        if finite:
            self.checkpoints.place = None
            self.stop.unsaved = self.checkpoints.are_kept or self.cluster.share.size > 1
            self.cluster.update(self.module)
            self.scores.add(scores)
            self._watch(probabilities, labels)
        else:
            for array, kept in zip(auxiliary_states(self.module), before):
                array[:] = kept
            self._skip(title)
        self.state.batches += 1

    @property
    def _stopping(self):
        """Whether a signal ends the run here: after the same batch on all workers."""
        return self.stop.requested if self.cluster.share.size == 1 else self.stop_agreed

    def _signal(self):
        """The signal that this worker has received; launch.py hears that the worker is there."""
        beat(self.state.batches)
        return self.stop.requested

    def _agree(self, probabilities, labels):
        """Whether the batch is finite on all workers, and the sums of its scores over them.

        It is also how each worker learns of a signal that another one has received.
        """
        half = self.settings.check_gradients
        finite = np.isfinite(probabilities).all() and (not half or self.gradients.are_finite())
        scores = Scores(self.settings.top_k)
        if finite:
            scores.update(probabilities, labels)
        self.stop_agreed, rows = self.cluster.agree([finite, *scores.state()])
        return rows[:, 0].all(), rows[:, 1:].sum(axis=0)

    def _watch(self, probabilities, labels):
        self.divergence.check(self.state.batches, probabilities, labels)
        if self.standstill and self.standstill.is_seen(self.state.batches, probabilities, labels):
            self.log.say(
                f"after {self.standstill.batches} batches the loss is still that of guessing"
                f" (ln {self.data.num_classes} = {np.log(self.data.num_classes):.3f}); likely"
                f" cause: {self.settings.standstill}"
            )

    def _forecast(self):
        length, size = self.length, self.length.batch_size
        left = max(0, length.num_epochs * length.images - self.state.batches * size)
        epochs = f"{left / length.images:.3g} epoch{'s' * (left > length.images)}"
        title = f"the {epochs} left" if self.state.batches else epochs
        return Forecast(self.log, left, size, title)

    def _skip(self, title):
        """Skip the current batch, whose loss is not finite, or end the run before it."""
        state, allowed = self.state, self.settings.skip_nonfinite
        where = f"{title}, batch {state.batches} of the run: the loss is not finite"
        self.log.event("nonfinite", batch=state.batches)
        state.skipped += 1
        if state.skipped <= allowed:
            self.log.say(f"{where}; left out, {state.skipped} of --skip-nonfinite allowed")
            return
        state.skipped -= 1
        cause = f"likely cause: {self.settings.overflow}"
        if not self.cluster.in_step:  # the others train on: there is no state before this batch
            raise UserError(f"{where}; {cause}; the last checkpoint is from before it")
        if not all(map(are_finite, weights(self.module))):
            raise UserError(f"{where}, and weights are not either; {cause}")
        remedy = f"{cause}; --skip-nonfinite N leaves such batches out"
        if self.checkpoints.are_kept:
            remedy += f"; the state before it is in {self._save(must=True)}"
        raise UserError(f"{where}; {remedy}")

    def _save(self, epoch=None, must=False, last=False):
        self.state.scores = self.scores.state()
        must = must or last or bool(self._stopping)
        saved = self.checkpoints.save(self.module, self.state, epoch, must, last)
        if self.checkpoints.place:
            self.stop.unsaved = False
        return saved

    def _leave(self):
        if self.checkpoints.are_kept:
            self.log.say(f"stopped after batch {self.state.batches}, saved; --resume continues")
        mx.nd.waitall()  # the other workers cannot finish the batch without this one's gradients
        self.stop.requested = self._stopping
        self.stop.leave()

    def _report(self, epoch, evaluator):
        """Validate and log ``epoch``, which is saved by now."""
        state, num_epochs = self.state, self.length.num_epochs
        result = {"train": self.scores.figures()}
        scores = self.board.scores(self.settings.top_k)
        if evaluator:
            found = evaluator.evaluate(*weights(self.module), scores)
            if self.cluster.share.size > 1:
                found.restore(self.cluster.gather(found.state()).sum(axis=0))
            result["val"] = found.figures()
            state.validated.append(float(result["val"]["top-1"]))
            state.validation = {"images": scores.count, "right": scores.right()["top-1"]}
        saved = ""
        if self.checkpoints.of_epoch:
            saved = f"  -> {store.params_path(*self.checkpoints.place)}"
            top1 = result.get("val", result["train"])["top-1"]
            if state.best is None or top1 > state.best["top-1"]:
                state.best = {"epoch": epoch, "top-1": top1}
        speed = self.scores.count / state.seconds
        shown = "  |  ".join(f"{name} {describe(figures)}" for name, figures in result.items())
        self.log.say(f"epoch {epoch}/{num_epochs}  {shown}  |  {speed:.0f} img/s{saved}")
        self.log.event("epoch", epoch=epoch, img_per_s=round(speed, 1), **result)
        self.board.epoch(state.batches, self.module, scores, self.cluster.in_step)
        state.reported = True
        self.checkpoints.report(state, must=epoch == num_epochs)
        if self.plateau and self.plateau.heed(state.validated):
            self.cluster.renew(self.module)
            rate = self.plateau(state.updates)
            self.log.say(f"validation stopped improving: learning rate {rate:.3g} from here")
            self.log.event("rate", epoch=epoch, lr=rate)
