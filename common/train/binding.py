"""A ``mx.mod.Module`` that is ready to train."""

import argparse
import dataclasses
from typing import List, Optional, Sequence, Tuple

import numpy as np

from common.graph import columns, precision
from common.graph.lowering import for_cpu
from common.graph.stock_leaky import decompose_leaky
from common.graph.weighted_loss import WEIGHT, weighted
from common.runtime import native
from common.runtime.mxnet import mx

from . import finetune
from .cluster import DISTRIBUTED
from .initializers import INITIALIZERS
from .module_state import restore_optimizer
from .resume import Resumed
from .schedule import LearningRate

_WITH_MOMENTUM = ("sgd", "nag")
OPTIMIZERS = (*_WITH_MOMENTUM, "adam", "rmsprop", "adagrad", "adadelta")


@dataclasses.dataclass(frozen=True)
class ModuleSettings:
    """How a network's weights are initialised and updated."""

    learning_rate: LearningRate
    optimizer: str = "sgd"  # one of OPTIMIZERS
    momentum: float = 0.0  # of sgd and nag
    weight_decay: float = 0.0  # of weights; biases have none
    initializer: str = "xavier"  # a name of common/train/initializers.py
    kv_store: Optional[str] = "device"  # how devices share gradients; None: cluster.py sums them
    seed: int = 0  # of the initial weights
    # Or "float16" on GPUs, with float32 copies of the weights; or "bfloat16" on CPUs, which is of
    # products alone.
    dtype: str = "float32"
    loss_scale: float = 1.0  # multiplies float16's loss, against underflow of gradients
    accumulate: int = 1  # how many batches of the module make an update
    weighted: bool = False  # whether a second label says what each image weighs in the gradient
    workers: int = 1  # processes whose batches make one
    model_parallel: bool = False  # each two contexts hold the two columns of one network

    @classmethod
    def from_args(cls, args: argparse.Namespace, workers: int = 1) -> "ModuleSettings":
        """From the parsed flags."""
        return cls(
            LearningRate.from_args(args),
            args.optimizer,
            args.mom,
            args.wd,
            args.initializer,
            None if args.kv_store in DISTRIBUTED else args.kv_store,
            args.seed,
            args.dtype,
            args.loss_scale,
            args.accumulate,
            args.class_weights is not None,
            workers,
            args.model_parallel,
        )


def bind(
    symbol: mx.sym.Symbol,
    contexts: List[mx.Context],
    shape: Tuple[int, int, int, int],
    settings: ModuleSettings,
    scheduler: Optional[mx.lr_scheduler.LRScheduler] = None,
    resumed: Optional[Resumed] = None,
    pretrained: Optional[finetune.Pretrained] = None,
    std: Optional[Sequence[float]] = None,
) -> mx.mod.Module:
    """A module ready to train: bound, with weights and an optimizer.

    Args:
        symbol: the plain network.
        contexts: the devices; each batch is divided among them, or among pairs of them.
        shape: of a batch, (N, C, H, W).
        scheduler: of the learning rate; None: it stays that of ``settings``, which servers of
            dist_async do not take.
        resumed: a checkpoint, which gives all weights and the optimizer's state; UserError if that
            does not fit.
        pretrained: gives some of the weights, and says which are frozen. The others are random.
        std: of the channels: batches are uint8 with precision.SHIFT (N, C), and the devices
            normalise. None: batches are float32 and normalised already.
    """
    mx.random.seed(settings.seed)
    np.random.seed(settings.seed)
    fast = contexts[0].device_type == "cpu" and native.load()
    module = _bound(symbol, contexts, shape, settings, pretrained, std)
    plain = _plain_module(symbol, shape) if settings.model_parallel else module
    _init_params(plain, settings.initializer, resumed, pretrained)
    if settings.model_parallel:
        names = module.symbol.list_inputs()
        module.init_params(None, *(columns.split(one, names) for one in plain.get_params()))
    updates = resumed.state.updates if resumed else 0
    _init_optimizer(module, settings, scheduler, updates, shape[0], fast)
    if resumed and updates:  # MXNet makes the state at the first update
        restore_optimizer(module, resumed.optimizer)
    return module


def _bound(symbol, contexts, shape, settings, pretrained, std):
    given, groups = pretrained.frozen if pretrained else (), None
    frozen = [name for name in given if name in symbol.list_arguments()]  # it may be a tail
    if settings.model_parallel:
        symbol, frozen = columns.in_columns(symbol), frozen and columns.own_names(frozen)
        groups = {name: contexts[i::2] for i, name in enumerate(columns.GROUPS)}
        contexts = contexts[::2]
    symbol = _for_devices(symbol, contexts, shape, settings)
    if settings.weighted:
        symbol = weighted(symbol)
    if frozen:
        symbol = finetune.with_frozen_statistics(symbol, frozen)
    inputs = [mx.io.DataDesc("data", shape, "float32" if std is None else "uint8")]
    if std is not None:
        symbol = precision.normalise(symbol, std)
        inputs.append(mx.io.DataDesc(precision.SHIFT, shape[:2]))
    names = [one.name for one in inputs]
    labels = [name for name in ("softmax_label", WEIGHT) if name in symbol.list_arguments()]
    where = {"context": contexts, "group2ctxs": groups}
    module = mx.mod.Module(symbol, names, labels, fixed_param_names=frozen, **where)
    # With groups no two arrays may have the same memory, one after the other: MXNet copies from
    # device to device without forgetting the MKL-DNN layout of the array that was there before. On
    # the CPU outputs would be wrong, or the process would crash.
    unshared = {"NNVM_EXEC_MATCH_RANGE": "0"} if groups else {}
    with mx.test_utils.environment(unshared):
        module.bind(inputs, [(name, shape[:1]) for name in labels])
    return module


def _plain_module(symbol, shape):
    """What draws the weights with which one device starts, to be split."""
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, *shape[1:]))], [("softmax_label", (1,))], for_training=False)
    return module


def _init_params(module, name, resumed, pretrained):
    if resumed:
        module.init_params(arg_params=resumed.arg_params, aux_params=resumed.aux_params)
        return
    given = pretrained.params if pretrained else None
    module.init_params(INITIALIZERS[name], given, given, allow_missing=True)
    if not pretrained or not pretrained.rows:
        return
    # Rows of classes that the source knows, in an output layer that is new otherwise.
    arg_params, aux_params = module.get_params()
    for name, rows in pretrained.rows.items():
        values = arg_params[name].asnumpy()
        values[pretrained.row_numbers] = rows.asnumpy()
        arg_params[name][:] = values
    module.set_params(arg_params, aux_params)


def _for_devices(symbol, contexts, shape, settings):
    """The graph that these devices run in place of the plain one."""
    if contexts[0].device_type == "cpu":
        own = (shape[0] // len(contexts), *shape[1:])
        return for_cpu(symbol, own, input_gradient=False, dtype=settings.dtype)
    symbol = decompose_leaky(symbol, shape)
    if settings.dtype == "float16":
        return precision.cast(symbol, settings.dtype, settings.loss_scale)
    return symbol


def _init_optimizer(module, settings, scheduler, updates, batch_size, fast):
    options = {
        "learning_rate": settings.learning_rate.base,
        "wd": settings.weight_decay,
        "lr_scheduler": scheduler,
        "begin_num_update": updates,
        "rescale_grad": 1 / (batch_size * settings.accumulate * settings.workers),
    }
    if settings.optimizer in _WITH_MOMENTUM:
        options["momentum"] = settings.momentum
    if settings.dtype == "float16":
        options["multi_precision"] = True
        options["rescale_grad"] /= settings.loss_scale
    # By name, not as an object: only then does Module exempt biases from weight decay.
    name = "nativesgd" if fast and settings.optimizer == "sgd" else settings.optimizer
    module.init_optimizer(settings.kv_store, name, options)
