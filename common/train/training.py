"""A ``mx.mod.Module`` that is ready to train."""

from typing import Optional, Sequence

import numpy as np

from common.graph import precision
from common.graph.lowering import lower, lower_native
from common.runtime import devices, native
from common.runtime.mxnet import mx

from . import finetune
from .initializers import initializer
from .resume import Resumed, restore_optimizer

_WITH_MOMENTUM = ("sgd", "nag")
OPTIMIZERS = (*_WITH_MOMENTUM, "adam", "rmsprop", "adagrad", "adadelta")


def schedule(args, updates):
    """MXNet's learning-rate scheduler for ``updates`` updates in all; None: it is constant."""
    an_epoch = updates / args.num_epochs
    options = {"base_lr": args.lr, "warmup_steps": round(args.warmup_epochs * an_epoch)}
    if args.lr_schedule == "linear":
        return mx.lr_scheduler.PolyScheduler(updates, pwr=1, **options)
    if args.lr_schedule == "cosine":
        return mx.lr_scheduler.CosineScheduler(updates, **options)
    at = [max(1, round(epoch * an_epoch)) for epoch in args.lr_step_epochs]
    if not at and not options["warmup_steps"]:
        return None
    return mx.lr_scheduler.MultiFactorScheduler(at or [updates], args.lr_factor, **options)


def bind(
    symbol,
    contexts,
    args,
    lr_scheduler,
    resumed: Optional[Resumed] = None,
    pretrained: Optional[finetune.Pretrained] = None,
    std: Optional[Sequence[float]] = None,
) -> mx.mod.Module:
    """A module ready to train: bound, with weights and an optimizer.

    Weights are random but for those of ``pretrained``, or all of them those of ``resumed``.

    Args:
        std: of the channels; batches are then uint8 with a shift, and are normalised on the
            devices. None: they are float32, and normalised already.
    """
    mx.random.seed(args.seed)
    np.random.seed(args.seed)
    shape = (args.batch_size, *args.image_shape)
    on_cpu = contexts[0].device_type == "cpu"
    fast = on_cpu and native.load()
    if on_cpu:
        seen = (shape[0] // len(contexts), *shape[1:])  # by one of them
        symbol = lower_native(symbol, seen) if fast else lower(symbol, shape)
    else:
        devices.set_cudnn(args.cudnn_tune, args.deterministic)
    half = not on_cpu and args.dtype == "float16"
    if half:
        symbol = precision.cast(symbol, args.dtype, args.loss_scale)
    if pretrained:
        symbol = finetune.with_lr_mult(symbol, pretrained.other, pretrained.lr_mult)
    inputs = [mx.io.DataDesc("data", shape, "float32" if std is None else "uint8")]
    if std is not None:
        symbol = precision.normalise(symbol, std)
        inputs.append(mx.io.DataDesc(precision.SHIFT, shape[:2]))
    names = [one.name for one in inputs]
    frozen = pretrained.frozen if pretrained else None
    module = mx.mod.Module(symbol, names, context=contexts, fixed_param_names=frozen)
    module.bind(inputs, [("softmax_label", shape[:1])])
    options = {"learning_rate": args.lr, "wd": args.wd, "lr_scheduler": lr_scheduler}
    if args.optimizer in _WITH_MOMENTUM:
        options["momentum"] = args.mom
    if half:
        rescale = 1 / (args.batch_size * args.loss_scale)
        options.update(multi_precision=True, rescale_grad=rescale)
    if resumed:
        module.init_params(arg_params=resumed.arg_params, aux_params=resumed.aux_params)
        options["begin_num_update"] = resumed.state.batches - resumed.state.skipped
    else:
        found = pretrained.arg_params if pretrained else None
        module.init_params(initializer(args.initializer), found, allow_missing=True)
    # The optimizer by name, not as an object: only so does Module spare biases the weight decay.
    name = "nativesgd" if fast and args.optimizer == "sgd" else args.optimizer
    module.init_optimizer(args.kv_store, name, options)
    if resumed and options["begin_num_update"]:  # MXNet makes the state at the first update
        restore_optimizer(module, resumed.optimizer)
    return module
