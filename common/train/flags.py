"""The flags that say how a network is trained, and what they refuse."""

import argparse

from common import cli
from common.cli import UserError
from common.runtime import devices

from . import board, cluster, finetune
from .binding import OPTIMIZERS
from .initializers import INITIALIZERS

_LARGEST_SEED = 2**32 - 1  # numpy's generators take no larger one


def add_train_args(parser: argparse.ArgumentParser) -> None:
    """Add the training flags, except finetune.py's: those also decide which recipe is followed."""
    train = parser.add_argument_group("training")
    _add_device_args(train)
    _add_optimizer_args(train)
    _add_rate_args(train)
    _add_output_args(parser.add_argument_group("output"))
    trial = parser.add_argument_group("trials")
    trial.add_argument("--benchmark", type=int, choices=[0, 1], default=0, help="synthetic images")
    trial.add_argument("--test-io", type=int, choices=[0, 1], default=0, help="only read images")


def _add_device_args(group):
    add = group.add_argument
    add("--gpus", type=cli.integers, help="such as 0,1; default: the CPU")
    add("--cpus", type=cli.positive_int, default=1, help="CPU contexts")
    add("--model-parallel", action="store_true", help="two columns, each on a device of its own")
    add(
        "--kv-store",
        choices=["device", "local", "nccl", *cluster.DISTRIBUTED],
        default="device",
        help="how devices share gradients; nccl: GPUs, through NVIDIA's library; dist_sync,"
        " dist_device_sync: the workers that launch.py starts, too; dist_async: these, and none"
        " waits for another within an epoch",
    )
    add(
        "--gc-type",
        choices=["none", "2bit"],
        default="none",
        help="2bit: workers send -T, 0 or T for each gradient, and the rest with the next",
    )
    add("--gc-threshold", type=cli.number(above=0), default=0.5, help="T of --gc-type 2bit")
    add(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        default="float32",
        help="float16: what GPUs compute in; bfloat16: what layers multiply on CPUs, faster with"
        " AMX; weights are float32, too, and checkpoints hold those",
    )
    add(
        "--loss-scale",
        type=cli.number(above=0),
        default=128,
        help="factor of float16's loss, against underflow of gradients",
    )
    add(
        "--cudnn-tune",
        choices=devices.CUDNN_TUNE,
        help="how GPUs choose among convolution algorithms: off, or by timing them; default: as"
        " MXNET_CUDNN_AUTOTUNE_DEFAULT says, else limited_workspace; --deterministic turns it off",
    )


def _add_optimizer_args(group):
    add, number = group.add_argument, cli.number
    add("--num-epochs", type=cli.positive_int)
    add("--batch-size", type=cli.positive_int, help="over all devices and workers together")
    add(
        "--accumulate",
        type=cli.positive_int,
        default=1,
        help="compute each update from N batches, as if --batch-size were N times larger",
    )
    add("--optimizer", choices=OPTIMIZERS)
    add("--mom", type=number(least=0, below=1), help="momentum, of sgd and nag")
    add("--wd", type=number(least=0), help="weight decay; biases have none")
    add("--initializer", choices=list(INITIALIZERS))
    add(
        "--seed",
        type=number(int, least=0, most=_LARGEST_SEED),
        default=0,
        help="of weights, order and dropout",
    )
    add(
        "--skip-nonfinite",
        type=number(int, least=0),
        default=0,
        help="how many batches may be skipped because their loss is not finite",
    )


def _add_rate_args(group):
    add, number = group.add_argument, cli.number
    add("--lr", type=number(above=0), help="learning rate")
    add(
        "--lr-batch", type=cli.positive_int, help="the batch that --lr is for: scale it to this one"
    )
    add(
        "--lr-schedule",
        choices=["step", "linear", "cosine", "plateau"],
        help="linear, cosine: fall to 0; plateau: a step whenever validation stops improving",
    )
    add(
        "--lr-step-epochs",
        type=cli.numbers,
        default=[],
        help="after which epochs a step schedule lowers the rate",
    )
    add(
        "--lr-patience",
        type=cli.positive_int,
        help="epochs without a better top-1 on --data-val after which plateau lowers the rate",
    )
    add(
        "--stop-patience",
        type=cli.positive_int,
        help="end the run after so many epochs without a better top-1 on --data-val",
    )
    add(
        "--lr-factor",
        type=number(above=0, most=1),
        default=0.1,
        help="a step multiplies the learning rate by it",
    )
    add(
        "--warmup-epochs",
        type=number(least=0),
        default=0,
        help="during these the learning rate rises linearly from 0",
    )


def _add_output_args(group):
    add = group.add_argument
    add("--model-prefix", help="where checkpoints go; default: none are kept")
    add("--save-period", type=cli.positive_int, default=1, help="epochs between checkpoints")
    add(
        "--save-minutes",
        type=cli.number(above=0),
        help="also save in the middle of an epoch, this often",
    )
    add(
        "--keep",
        type=cli.positive_int,
        help="how many of the newest checkpoints stay, besides the best one; default: all",
    )
    add("--resume", action="store_true", help="continue from the newest checkpoint")
    add(
        "--load-epoch",
        type=cli.number(int, least=0),
        help="continue from the checkpoint of this epoch",
    )
    add("--overwrite", action="store_true", help="delete an earlier run's checkpoints")
    add("--disp-batches", type=cli.positive_int, default=20, help="batches between lines")
    add("--top-k", type=cli.positive_int, help="accuracy reported; default: 5")
    add(
        "--tensorboard",
        metavar="DIR",
        help="write events for TensorBoard there: curves, histograms, pictures, arguments",
    )


def check_train_args(args: argparse.Namespace) -> None:
    """Refuse combinations of flags with which MXNet would fail later."""
    if args.num_examples and args.num_examples < args.batch_size:
        raise UserError(
            f"--batch-size {args.batch_size}: is more than --num-examples {args.num_examples}"
        )
    if args.benchmark and args.test_io:
        raise UserError(
            "--benchmark and --test-io: choose one; the first reads nothing, the second only reads"
        )
    _check_rate_args(args)
    _check_device_args(args)
    cluster.check(args)
    _check_output_args(args)
    board.check_args(args)
    finetune.check_args(args)


def _check_rate_args(args):
    steps = args.lr_step_epochs
    if steps and (min(steps) <= 0 or any(a >= b for a, b in zip(steps, steps[1:]))):
        raise UserError("--lr-step-epochs: must rise, from above 0, such as 30,60,80")
    if (args.lr_schedule == "plateau") != (args.lr_patience is not None):
        raise UserError("--lr-schedule plateau and --lr-patience N: one needs the other")
    for flag, value in (("lr", args.lr_patience), ("stop", args.stop_patience)):
        if value and (args.benchmark or not args.data_val):
            raise UserError(f"--{flag}-patience {value}: needs --data-val, and no --benchmark")
    if args.warmup_epochs >= args.num_epochs:
        raise UserError(
            f"--warmup-epochs {args.warmup_epochs:g}: must be less than --num-epochs"
            f" {args.num_epochs}"
        )


def _check_device_args(args):
    count = len(args.gpus) if args.gpus else args.cpus
    if args.batch_size < count:
        raise UserError(f"--batch-size {args.batch_size}: is fewer than one image a device")
    if args.model_parallel and count % 2:
        given = f"--gpus {','.join(map(str, args.gpus))}" if args.gpus else f"--cpus {count}"
        raise UserError(f"--model-parallel: needs pairs of devices; {given} is an odd number")
    if args.model_parallel and args.dtype == "float16":
        raise UserError("--model-parallel: is not written for --dtype float16; leave one out")
    if args.dtype == "float16" and not args.gpus:
        raise UserError("--dtype float16: needs --gpus; MXNet has no float16 layers for the CPU")
    if args.cudnn_tune and not args.gpus:
        raise UserError(f"--cudnn-tune {args.cudnn_tune}: needs --gpus; CPUs do not use cuDNN")
    if args.deterministic and args.cudnn_tune not in (None, "off"):
        raise UserError(
            f"--cudnn-tune {args.cudnn_tune}: may choose differently from run to run; leave it or"
            " --deterministic out"
        )


def _check_output_args(args):
    if args.resume and args.load_epoch is not None:
        raise UserError("--resume and --load-epoch: choose one; --resume takes the newest")
    if args.resume and args.overwrite:
        raise UserError("--resume and --overwrite: choose one; --overwrite loses what is there")
    if not args.model_prefix:
        for name in ("resume", "load_epoch", "overwrite", "save_minutes", "keep"):
            if getattr(args, name) not in (None, False):
                raise UserError(f"--{name.replace('_', '-')}: needs --model-prefix")
