"""The training loop around ``mx.mod.Module``."""

import contextlib
import logging
import sys
import time
from typing import Callable, Optional

import numpy as np

from common import cli
from common.checkpoint import store
from common.cli import UserError
from common.evaluate.evaluator import Scores
from common.graph.graph import Graph
from common.input import pipeline
from common.io.log import Progress, RunLog, describe
from common.io.signals import Stop
from common.runtime import devices
from common.runtime.mxnet import mx

from . import finetune, training
from .initializers import NAMES as INITIALIZERS
from .resume import State, optimizer_state, seed_dropout, weights


def add_fit_args(parser) -> None:
    """Add the flags that say how the network is trained."""
    train = parser.add_argument_group("training")
    train.add_argument("--gpus", type=cli.integers, help="such as 0,1; default: the CPU")
    train.add_argument("--cpus", type=cli.positive_int, default=1, help="CPU contexts")
    train.add_argument(
        "--kv-store",
        choices=["device", "local", "nccl"],
        default="device",
        help="how devices share gradients; nccl: GPUs, through NVIDIA's library",
    )
    train.add_argument("--num-epochs", type=cli.positive_int)
    train.add_argument("--batch-size", type=cli.positive_int, help="over all devices together")
    train.add_argument("--optimizer", choices=training.OPTIMIZERS)
    train.add_argument("--lr", type=float, help="learning rate")
    train.add_argument(
        "--lr-schedule", choices=["step", "linear", "cosine"], help="linear, cosine: fall to 0"
    )
    train.add_argument(
        "--lr-step-epochs", type=cli.numbers, default=[], help="where a step schedule steps"
    )
    train.add_argument(
        "--lr-factor", type=float, default=0.1, help="the rate is multiplied by it at each step"
    )
    train.add_argument(
        "--warmup-epochs", type=float, default=0, help="the rate first rises evenly, from 0"
    )
    train.add_argument("--mom", type=float, help="momentum, of sgd and nag")
    train.add_argument("--wd", type=float, help="weight decay; biases have none")
    train.add_argument("--initializer", choices=INITIALIZERS)
    finetune.add_args(parser)
    train.add_argument("--seed", type=int, default=0, help="of weights, order and dropout")
    train.add_argument(
        "--skip-nonfinite",
        type=cli.positive_int,
        default=0,
        help="how many batches may be left out because their loss is not finite",
    )
    train.add_argument(
        "--dtype",
        choices=["float32", "float16"],
        default="float32",
        help="what GPUs compute in; weights are float32 besides, and so are checkpoints",
    )
    train.add_argument(
        "--loss-scale", type=float, default=128, help="of float16, against underflow of gradients"
    )
    train.add_argument(
        "--cudnn-tune",
        choices=devices.CUDNN_TUNE,
        help="how GPUs choose among convolution algorithms: off, or by timing them; default: as"
        " MXNET_CUDNN_AUTOTUNE_DEFAULT says, else limited_workspace; --deterministic has it off",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--model-prefix", help="where checkpoints go; default: none are kept")
    output.add_argument("--save-period", type=cli.positive_int, default=1, help="epochs")
    output.add_argument("--save-minutes", type=float, help="save in mid-epoch, too, so often")
    output.add_argument(
        "--keep", type=cli.positive_int, help="checkpoints, the best one besides; default: all"
    )
    output.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    output.add_argument("--load-epoch", type=int, help="go on from this epoch's checkpoint")
    output.add_argument("--overwrite", action="store_true", help="an earlier run's checkpoints")
    output.add_argument("--disp-batches", type=cli.positive_int, default=20, help="between lines")
    output.add_argument("--top-k", type=cli.positive_int, help="accuracy reported; default: 5")
    output.add_argument("--monitor", type=int, default=0, help="N: tensor norms every N batches")
    output.add_argument("--verbose", action="store_true", help="let MXNet talk, too")
    trial = parser.add_argument_group("trials")
    trial.add_argument("--benchmark", type=int, choices=[0, 1], default=0, help="synthetic images")
    trial.add_argument("--test-io", type=int, choices=[0, 1], default=0, help="read only")


def check_fit_args(args) -> None:
    """Refuse values that MXNet would take and fail with later.

    Raises:
        UserError: naming the flag.
    """
    if not args.lr > 0:
        raise UserError(f"--lr {args.lr}: must be above 0")
    steps = args.lr_step_epochs
    if steps and (min(steps) <= 0 or any(a >= b for a, b in zip(steps, steps[1:]))):
        raise UserError("--lr-step-epochs: must rise, from above 0, such as 30,60,80")
    if not 0 <= args.warmup_epochs < args.num_epochs:
        raise UserError(
            f"--warmup-epochs {args.warmup_epochs:g}: must be at least 0, and less than"
            f" --num-epochs {args.num_epochs}"
        )
    if args.num_examples and args.num_examples < args.batch_size:
        raise UserError(
            f"--batch-size {args.batch_size}: is more than --num-examples {args.num_examples}"
        )
    if args.benchmark and args.test_io:
        raise UserError(
            "--benchmark and --test-io: choose one; the one reads nothing, the other only"
        )
    _check_device_args(args)
    _check_output_args(args)
    finetune.check_args(args)


def _check_device_args(args):
    if args.batch_size < (len(args.gpus) if args.gpus else args.cpus):
        raise UserError(f"--batch-size {args.batch_size}: is fewer than one image a device")
    if args.dtype == "float16" and not args.gpus:
        raise UserError("--dtype float16: needs --gpus; MXNet has no float16 layers for the CPU")
    if not args.loss_scale > 0:
        raise UserError(f"--loss-scale {args.loss_scale:g}: must be above 0")
    if args.cudnn_tune and not args.gpus:
        raise UserError(f"--cudnn-tune {args.cudnn_tune}: needs --gpus; CPUs do not use cuDNN")
    if args.deterministic and args.cudnn_tune not in (None, "off"):
        raise UserError(
            f"--cudnn-tune {args.cudnn_tune}: may choose otherwise from run to run; leave it or"
            " --deterministic out"
        )


def _check_output_args(args):
    if args.save_minutes is not None and not args.save_minutes > 0:
        raise UserError(f"--save-minutes {args.save_minutes:g}: must be above 0")
    if args.resume and args.load_epoch is not None:
        raise UserError("--resume and --load-epoch: choose one; --resume takes the newest")
    if args.resume and args.overwrite:
        raise UserError("--resume and --overwrite: choose one; --overwrite loses what is there")
    if not args.model_prefix:
        for name in ("resume", "load_epoch", "overwrite", "save_minutes", "keep"):
            if getattr(args, name):
                raise UserError(f"--{name.replace('_', '-')}: needs --model-prefix")


class Run:
    """A training run: it prints, logs and keeps checkpoints as ``args`` say.

    Args:
        symbol: the plain network; checkpoints hold it as it is.
        contexts: where to train; each batch is divided among them.
        images: how many images make an epoch.
        fingerprint: of the training records, for the checkpoints; None for synthetic images.
        resumed: the checkpoint to go on from.
        pretrained: weights to begin from, and which of them stay.
    """

    def __init__(
        self, symbol, contexts, args, images: int, fingerprint=None, resumed=None, pretrained=None
    ):
        self.symbol, self.args, self.images = symbol, args, images
        self.fingerprint = fingerprint
        self.state = resumed.state if resumed else State()
        self.scores = Scores(args.top_k)
        if self.state.scores:
            self.scores.restore(self.state.scores)
        self.place = resumed and resumed.place  # prefix and number where the state is saved
        self.saved_at = time.monotonic()
        path = args.model_prefix and f"{args.model_prefix}-log.jsonl"
        self.log = RunLog(path, append=resumed is not None)
        self.log.event("resume" if resumed else "start", batch=self.state.batches, **vars(args))
        self.stop = Stop(self.log.say)
        schedule = training.schedule(args, self._end(args.num_epochs))
        std = args.rgb_std if args.data_dtype == "uint8" else None
        self.module = training.bind(symbol, contexts, args, schedule, resumed, pretrained, std)
        self.monitor = _monitor(self.module, args.monitor)
        self.draws = any(node.op == "Dropout" for node in Graph(symbol).nodes)

    def train(self, batches, validate: Optional[Callable] = None) -> None:
        """Train all epochs that are left.

        Args:
            batches: an endless iterator, from where the run is.
            validate: called after each epoch, (arg_params, aux_params) -> Scores.
        """
        done, seen = divmod(self.state.batches * self.args.batch_size, self.images)
        if self.state.batches and done >= self.args.num_epochs:
            self.log.say(f"it has {done} epochs already; --num-epochs asks for no more")
        elif seen >= self.args.batch_size:
            self.log.say(f"reading past the {seen} images that epoch {done + 1} has had")
        if self.place:
            self._tidy()  # a kill may have come before it
        with self.stop:
            if not self.state.reported and self.state.batches == self._end(done):
                self._report(done, validate)  # the run was stopped while it validated
            for epoch in range(done + 1, self.args.num_epochs + 1):
                self._train_epoch(epoch, batches)
                self.state.reported = False
                self._save(epoch)
                if self.stop.requested:
                    self._leave()
                self._report(epoch, validate)

    def _end(self, epoch):
        """How many batches ``epoch`` epochs take; the last may reach into the next."""
        return -(-epoch * self.images // self.args.batch_size)

    def _train_epoch(self, epoch, batches):
        args, state = self.args, self.state
        start, end = self._end(epoch - 1), self._end(epoch)
        if state.batches == start:
            self.scores, state.seconds = Scores(args.top_k), 0.0
        title = f"epoch {epoch}/{args.num_epochs}"
        past = state.batches - start, (state.batches - start) * args.batch_size
        started = time.monotonic() - state.seconds
        with Progress(self.log, title, self.images, args.disp_batches, *past) as progress:
            for batch in pipeline.epoch(batches, args.data_train, end - state.batches):
                self._step(batch, title)
                state.seconds = time.monotonic() - started
                progress.update(args.batch_size, **self.scores.figures())
                if state.batches < end and self._is_due():
                    self._save()
                    if self.stop.requested:
                        self._leave()

    def _step(self, batch, title):
        if self.draws:
            seed_dropout(self.args, self.state.batches)
        if self.monitor:
            self.monitor.tic()
        self.module.forward_backward(batch)
        probabilities = self.module.get_outputs()[0].asnumpy()
        if np.isfinite(probabilities).all() and self._gradients_fit():
            self.place, self.stop.unsaved = None, bool(self.args.model_prefix)
            self.module.update()
            self.scores.update(probabilities, batch.label[0].asnumpy())
        else:
            self._skip(title)
        if self.monitor:
            self.monitor.toc_print()
        self.state.batches += 1

    def _gradients_fit(self):
        """Whether none is beyond float16's range; float32's is not looked at."""
        if self.args.dtype != "float16":
            return True
        trained = [c for c in self.module._exec_group.grad_arrays if c[0] is not None]
        # One call a device, and all of them before the first is waited for.
        found = [mx.nd.multi_all_finite(*own, num_arrays=len(own)) for own in zip(*trained)]
        return all(finite.asscalar() for finite in found)

    def _skip(self, title):
        """Leave out the batch at hand, whose loss is not finite, or end the run before it."""
        args, state = self.args, self.state
        where = f"{title}, batch {state.batches} of the run: the loss is not finite"
        self.log.event("nonfinite", batch=state.batches)
        state.skipped += 1
        if state.skipped <= args.skip_nonfinite:
            self.log.say(f"{where}; left out, {state.skipped} of --skip-nonfinite allowed")
            return
        state.skipped -= 1
        remedy = "lower --lr, or leave such batches out with --skip-nonfinite N"
        if not _are_finite(weights(self.module)[0]):
            raise UserError(f"{where}, and weights are not either; lower --lr")
        if args.model_prefix:
            remedy += f"; the state before it is in {self._save(final=True)}"
        raise UserError(f"{where}; {remedy}")

    def _is_due(self):
        if self.stop.requested:
            return True
        minutes = self.args.save_minutes
        return minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes

    def _save(self, epoch=None, final=False):
        """Save the state at hand.

        Args:
            epoch: the one that has just ended, None in mid-epoch.
            final: the run ends here, so a failure is an error, and not a warning.

        Returns:
            The name of the weights' file, None where there is none.
        """
        args, state = self.args, self.state
        if not args.model_prefix:
            return None
        kept = epoch and (epoch % args.save_period == 0 or epoch == args.num_epochs)
        prefix = args.model_prefix if kept else store.partial(args.model_prefix)
        number = epoch if kept else state.batches
        state.scores = self.scores.state()
        self.saved_at = time.monotonic()
        found = weights(self.module)
        if not _are_finite(found[0]):
            raise UserError(
                f"batch {state.batches} of the run: weights are not finite; lower --lr, --resume"
                " goes on from before"
            )
        with self._writing(final or self.stop.requested or epoch == args.num_epochs):
            store.save(
                prefix,
                number,
                self.symbol,
                *found,
                optimizer_state(self.module),
                args=vars(args),
                data=self.fingerprint,
                **vars(state),
            )
            self.place, self.stop.unsaved = (prefix, number), False
            self._tidy()
        return store.params_path(prefix, number)

    @contextlib.contextmanager
    def _writing(self, final):
        try:
            yield
        except (UserError, OSError) as error:
            if final:
                raise
            print(f"warning: {error}; training goes on, the next save is tried", file=sys.stderr)

    def _leave(self):
        if self.args.model_prefix:
            self.log.say(f"stopped after batch {self.state.batches}, saved; --resume goes on")
        self.stop.leave()

    def _report(self, epoch, validate):
        """Validate, log and tidy up after ``epoch``, which is saved by now."""
        args, state = self.args, self.state
        result = {"train": self.scores.figures()}
        if validate:
            result["val"] = validate(*weights(self.module)).figures()
        saved = ""
        if self.place == (args.model_prefix, epoch):
            saved = f"  -> {store.params_path(*self.place)}"
            top1 = result.get("val", result["train"])["top-1"]
            if state.best is None or top1 > state.best["top-1"]:
                state.best = {"epoch": epoch, "top-1": top1}
        speed = self.scores.count / state.seconds
        shown = "  |  ".join(f"{name} {describe(figures)}" for name, figures in result.items())
        self.log.say(f"epoch {epoch}/{args.num_epochs}  {shown}  |  {speed:.0f} img/s{saved}")
        self.log.event("epoch", epoch=epoch, img_per_s=round(speed, 1), **result)
        state.reported = True
        if self.place:
            with self._writing(epoch == args.num_epochs):
                store.update_record(*self.place, reported=True, best=state.best)
                self._tidy()

    def _tidy(self):
        """Delete the checkpoints that the saved one makes needless."""
        prefix, number = self.place
        partial = store.partial(self.args.model_prefix)
        store.remove(partial, keep=(number,) if prefix == partial else ())
        if self.args.keep:
            epoch = self.state.batches * self.args.batch_size // self.images
            saved = [n for n in store.numbers(self.args.model_prefix) if n <= epoch]
            best = [self.state.best["epoch"]] if self.state.best else []
            store.remove(self.args.model_prefix, keep=saved[-self.args.keep :] + best)


def _are_finite(arrays):
    return all(np.isfinite(array.asnumpy()).all() for array in arrays.values())


def test_io(args, batches, images: int) -> None:
    """``--test-io 1``: read one epoch, print how fast that went; no network runs."""
    with Progress(RunLog(), "reading", images, args.disp_batches) as progress:
        for batch in pipeline.epoch(batches, args.data_train, -(-images // args.batch_size)):
            batch.data[0].wait_to_read()
            progress.update(args.batch_size)


def _monitor(module, period):
    if not period:
        return None
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    monitor = mx.mon.Monitor(period, pattern=".*")
    module.install_monitor(monitor)
    return monitor
