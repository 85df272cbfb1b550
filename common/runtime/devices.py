"""``--gpus`` and ``--cpus`` -> MXNet contexts, or one line that says why not."""

import os
from typing import List, Optional, Tuple

import numpy as np

from common.cli import UserError

from . import cuda
from .mxnet import mx

_GIB = 2**30
# Besides what a batch is counted to take: CUDA's own, cuDNN's workspace, validation. A guess: no
# usable GPU was at hand to measure it.
_ALLOWANCE = _GIB
CUDNN_TUNE = ("off", "limited_workspace", "fastest")  # MXNet's names for 0, 1 and 2
_OPTIMIZER_STATES = {"adam": 2, "adadelta": 2}  # numbers a weight; the others have one


def contexts(gpus: Optional[List[int]], cpus: int = 1) -> List[mx.Context]:
    """The devices to train on: the GPUs of that number, else ``cpus`` contexts on the processor.

    Several CPU contexts share the same cores: they make nothing faster, but they run the same
    data-parallel code as several GPUs do, to the same result.

    Raises:
        UserError: an MXNet without CUDA, no driver or too old a one, a GPU that is not there or
            that this MXNet has no code for, or one named twice.
    """
    if gpus is None:
        return [mx.cpu(i) for i in range(cpus)]
    flag = "--gpus " + ",".join(map(str, gpus))
    if len(set(gpus)) < len(gpus):
        raise UserError(f"{flag}: names a GPU twice")
    if not mx.runtime.Features().is_enabled("CUDA"):
        raise UserError(
            f"{flag}: this MXNet is the CPU build; pip uninstall mxnet, then pip install '.[cuda]',"
            " or leave --gpus out to train on the CPU"
        )
    try:
        _check_cards(gpus)
    except UserError as error:
        raise UserError(f"{flag}: {error}")
    return [mx.gpu(i) for i in gpus]


def _check_cards(gpus):
    _, cards = cuda.driver_and_cards()
    for gpu in gpus:
        if not 0 <= gpu < len(cards):
            there = ", ".join(f"{i} ({card.name})" for i, card in enumerate(cards)) or "none"
            raise UserError(f"there is no GPU {gpu}; there are: {there}{cuda.hidden()}")
        fault = cards[gpu].fault()
        if fault:
            usable = [str(i) for i, card in enumerate(cards) if not card.fault()]
            remedy = f"give --gpus {','.join(usable)}" if usable else "leave --gpus out"
            raise UserError(f"GPU {gpu}, {fault}; {remedy}")
    try:
        present = mx.context.num_gpus()
    except mx.MXNetError as error:
        raise UserError(f"CUDA fails: {str(error).strip().splitlines()[-1]}")
    if present < len(cards):
        raise UserError(
            f"the driver has {len(cards)} GPUs, and MXNet can use {present}; a container needs"
            " NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        )


def check_kv_store(kv_store: str, contexts: List[mx.Context]) -> None:
    """Refuse NCCL where there is none; MXNet's other stores work everywhere.

    Raises:
        UserError: on CPU contexts, or with an MXNet that is built without NCCL.
    """
    if kv_store != "nccl":
        return
    if contexts[0].device_type != "gpu":
        raise UserError("--kv-store nccl: works among GPUs only; give --gpus, or leave it out")
    if not mx.runtime.Features().is_enabled("NCCL"):
        raise UserError("--kv-store nccl: this MXNet is built without NCCL; give --kv-store device")


def set_cudnn(args) -> None:
    """Have cuDNN choose its algorithms as ``args`` say; before the network is bound.

    Args:
        args: has ``cudnn_tune``, one of CUDNN_TUNE or None, and ``deterministic``, which needs it
            off: what times best differs from run to run, and so do the last bits.
    """
    tune = args.cudnn_tune
    if args.deterministic:
        os.environ["MXNET_ENFORCE_DETERMINISM"] = "1"
        tune = "off"
    if tune is not None:
        os.environ["MXNET_CUDNN_AUTOTUNE_DEFAULT"] = str(CUDNN_TUNE.index(tune))


def training_memory(
    symbol: mx.sym.Symbol, image_shape: Tuple[int, ...], optimizer: str, itemsize: int = 4
) -> Tuple[int, int]:
    """About how many bytes training takes on a device: (whatever the batch, for each image of it).

    Each weight has its gradient and the optimizer's states. An image has the output of each layer,
    which stays for the backward pass, and two gradients of the largest, since one is made from
    another and then dropped.

    Args:
        image_shape: (channels, height, width).
        itemsize: bytes of a number in a layer's output. Weights come to the same with 2 as with 4:
            with 2 there are float32 weights besides.
    """
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape(data=(1, *image_shape))
    sizes = dict(zip(internals.list_outputs(), (int(np.prod(shape)) for shape in shapes)))
    inputs = {"data", "softmax_label"}
    weights = sum(sizes.pop(name) for name in symbol.list_arguments() if name not in inputs)
    outputs = sum(sizes.values()) + 2 * max(sizes.values())
    return weights * 4 * (2 + _OPTIMIZER_STATES.get(optimizer, 1)), outputs * itemsize


def check_memory(symbol: mx.sym.Symbol, contexts: List[mx.Context], args) -> None:
    """Refuse a batch that the GPUs have no memory for; other devices are not asked.

    Args:
        args: has ``batch_size``, ``image_shape``, ``optimizer`` and ``dtype``.

    Raises:
        UserError: it does not fit; it says how large a batch does.
    """
    if contexts[0].device_type != "gpu":
        return
    itemsize = np.dtype(args.dtype).itemsize
    fixed, image = training_memory(symbol, args.image_shape, args.optimizer, itemsize)
    _, cards = cuda.driver_and_cards()
    gpu = min((context.device_id for context in contexts), key=lambda i: cards[i].free)
    needed = fixed + image * -(-args.batch_size // len(contexts)) + _ALLOWANCE
    free = cards[gpu].free
    if needed <= free:
        return
    largest = max(0, (free - _ALLOWANCE - fixed) // image) * len(contexts)
    remedy = f"the largest that fits is {largest}" if largest else "not even one image fits"
    raise UserError(
        f"--batch-size {args.batch_size}: takes about {needed / _GIB:.1f} GiB a GPU, and GPU {gpu}"
        f" ({cards[gpu].name}) has {free / _GIB:.1f} free; {remedy}"
    )
