"""The training loop around ``mx.mod.Module``."""

import logging
import time
from typing import Callable, Optional

import mxnet as mx
import numpy as np

from common import checkpoint, cli, data, native
from common.cli import UserError
from common.evaluate import Scores
from common.initializers import NAMES as INITIALIZERS
from common.initializers import initializer
from common.log import Progress, RunLog, describe
from common.lower import lower, lower_native

_WITH_MOMENTUM = ("sgd", "nag")
_OPTIMIZERS = (*_WITH_MOMENTUM, "adam", "rmsprop", "adagrad", "adadelta")


def add_fit_args(parser) -> None:
    """Add the flags that say how the network is trained."""
    train = parser.add_argument_group("training")
    train.add_argument("--gpus", type=cli.integers, help="such as 0,1; default: the CPU")
    train.add_argument("--cpus", type=cli.positive_int, default=1, help="CPU contexts")
    train.add_argument("--kv-store", choices=["device", "local"], default="device")
    train.add_argument("--num-epochs", type=cli.positive_int)
    train.add_argument("--batch-size", type=cli.positive_int, help="over all devices together")
    train.add_argument("--optimizer", choices=_OPTIMIZERS)
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
    train.add_argument("--seed", type=int, default=0, help="of weights, order and dropout")
    train.add_argument("--dtype", choices=["float32"], default="float32")
    output = parser.add_argument_group("output")
    output.add_argument("--model-prefix", help="where checkpoints go; default: none are kept")
    output.add_argument("--save-period", type=cli.positive_int, default=1, help="epochs")
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
    devices = len(args.gpus) if args.gpus else args.cpus
    if args.batch_size < devices:
        raise UserError(f"--batch-size {args.batch_size}: is fewer than one image a device")


def fit(symbol, contexts, args, batches, images: int, validate: Optional[Callable] = None) -> None:
    """Train ``symbol``; print, log and keep checkpoints as ``args`` say.

    Args:
        symbol: the plain network; checkpoints hold it as it is.
        contexts: where to train; each batch is divided among them.
        batches: an iterator of one epoch, with ``reset()`` for the next.
        images: how many images make an epoch.
        validate: called after each epoch, (arg_params, aux_params) -> Scores.
    """
    log = RunLog(args.model_prefix and f"{args.model_prefix}-log.jsonl")
    log.event("start", **vars(args))
    steps = -(-images // args.batch_size)
    schedule = _schedule(args, steps)
    module = bind(symbol, contexts, args, schedule)
    monitor = _monitor(module, args.monitor)
    for epoch in range(1, args.num_epochs + 1):
        if epoch > 1:
            batches.reset()
        title = f"epoch {epoch}/{args.num_epochs}"
        progress = Progress(log, title, images, args.disp_batches)
        started = time.time()
        scores = _train_epoch(module, batches, args, steps, progress, monitor)
        result = {"train": scores.figures()}
        speed = scores.count / (time.time() - started)
        weights = module.get_params()
        if validate:
            result["val"] = validate(*weights).figures()
        saved = ""
        if args.model_prefix and (epoch % args.save_period == 0 or epoch == args.num_epochs):
            saved = "  -> " + checkpoint.save(args.model_prefix, epoch, symbol, *weights)
        shown = "  |  ".join(f"{name} {describe(figures)}" for name, figures in result.items())
        log.say(f"{title}  {shown}  |  {speed:.0f} img/s{saved}")
        log.event("epoch", epoch=epoch, img_per_s=round(speed, 1), **result)


def _train_epoch(module, batches, args, steps, progress, monitor):
    scores = Scores(args.top_k)
    for batch in data.epoch(batches, args.data_train, steps):
        if monitor:
            monitor.tic()
        module.forward_backward(batch)
        module.update()
        scores.update(module.get_outputs()[0].asnumpy(), batch.label[0].asnumpy())
        if monitor:
            monitor.toc_print()
        progress.update(args.batch_size, **scores.figures())
    progress.close()
    return scores


def test_io(args, batches, images: int) -> None:
    """``--test-io 1``: read one epoch, print how fast that went; no network runs."""
    progress = Progress(RunLog(), "reading", images, args.disp_batches)
    for batch in data.epoch(batches, args.data_train, -(-images // args.batch_size)):
        batch.data[0].wait_to_read()
        progress.update(args.batch_size)
    progress.close()


def _schedule(args, steps):
    """The learning rate by number of updates, ``steps`` of them an epoch; None: it is constant."""
    updates = args.num_epochs * steps
    options = {"base_lr": args.lr, "warmup_steps": round(args.warmup_epochs * steps)}
    if args.lr_schedule == "linear":
        return mx.lr_scheduler.PolyScheduler(updates, pwr=1, **options)
    if args.lr_schedule == "cosine":
        return mx.lr_scheduler.CosineScheduler(updates, **options)
    at = [max(1, round(epoch * steps)) for epoch in args.lr_step_epochs]
    if not at and not options["warmup_steps"]:
        return None
    return mx.lr_scheduler.MultiFactorScheduler(at or [updates], args.lr_factor, **options)


def bind(symbol, contexts, args, schedule):
    """A module ready to train: bound, with starting weights and an optimizer."""
    mx.random.seed(args.seed)
    np.random.seed(args.seed)
    shape = (args.batch_size, *args.image_shape)
    on_cpu = contexts[0].device_type == "cpu"
    fast = on_cpu and native.load()
    if on_cpu:
        symbol = lower_native(symbol) if fast else lower(symbol, shape)
    module = mx.mod.Module(symbol, context=contexts)
    module.bind([("data", shape)], [("softmax_label", shape[:1])])
    module.init_params(initializer(args.initializer))
    options = {"learning_rate": args.lr, "wd": args.wd, "lr_scheduler": schedule}
    if args.optimizer in _WITH_MOMENTUM:
        options["momentum"] = args.mom
    # The optimizer by name, not as an object: only so does Module spare biases the weight decay.
    name = "nativesgd" if fast and args.optimizer == "sgd" else args.optimizer
    module.init_optimizer(args.kv_store, name, options)
    return module


def _monitor(module, period):
    if not period:
        return None
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    monitor = mx.mon.Monitor(period, pattern=".*")
    module.install_monitor(monitor)
    return monitor
