"""The devices of ``--gpus`` and ``--cpus``, and what must hold before training uses them."""

import os
from typing import List, Optional, Tuple

import numpy as np

from common.cli import UserError

from . import cuda
from .mxnet import mx

_GIB = 2**30
# Memory that training_memory does not count: CUDA's own, cuDNN's workspace, validation. A guess,
# not a measurement: MXNet never ran on a GPU here.
_ALLOWANCE = _GIB
CUDNN_TUNE = ("off", "limited_workspace", "fastest")  # MXNet's names for 0, 1 and 2
_OPTIMIZER_STATES = {"adam": 2, "adadelta": 2}  # numbers kept for a weight; 1 otherwise


def contexts(gpus: Optional[List[int]], cpus: int = 1) -> List[mx.Context]:
    """The devices to train on: the GPUs with the given numbers, else ``cpus`` CPU contexts.

    CPU contexts share the same cores, so several are no faster than one. They run the same
    data-parallel code as several GPUs, with the same result. UserError if a GPU cannot be used.
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


def _check_cards(gpus: List[int]) -> None:
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
    """Raise UserError for ``nccl`` on CPUs, or without NCCL; MXNet's other stores always work."""
    if kv_store != "nccl":
        return
    if contexts[0].device_type != "gpu":
        raise UserError("--kv-store nccl: works among GPUs only; give --gpus, or leave it out")
    if not mx.runtime.Features().is_enabled("NCCL"):
        raise UserError("--kv-store nccl: this MXNet is built without NCCL; give --kv-store device")


def set_cudnn(tune: Optional[str], deterministic: bool = False) -> None:
    """Set how cuDNN chooses its algorithms; call it before the network is bound.

    ``tune`` is one of CUDNN_TUNE; None keeps what the environment says. ``deterministic`` turns
    tuning off: the fastest algorithm differs from run to run, and with it the results' last bits.
    """
    if deterministic:
        os.environ["MXNET_ENFORCE_DETERMINISM"] = "1"
        tune = "off"
    if tune is not None:
        os.environ["MXNET_CUDNN_AUTOTUNE_DEFAULT"] = str(CUDNN_TUNE.index(tune))


def training_memory(
    symbol: mx.sym.Symbol, image_shape: Tuple[int, ...], optimizer: str, dtype: str, accumulate: int
) -> Tuple[int, int]:
    """Estimate the bytes that training takes on a device: for any batch, and more for each image.

    Each weight has a gradient and the optimizer's states. Each image has the output of every layer,
    which is kept for the backward pass, and two gradients of the size of the largest output, all of
    ``dtype``. Float16 weights take no less: they come with float32 copies.
    If more than one batch makes an update (``accumulate``), their gradients' sum takes memory, too.
    """
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape(data=(1, *image_shape))
    sizes = dict(zip(internals.list_outputs(), (int(np.prod(shape)) for shape in shapes)))
    inputs = {"data", "softmax_label"}
    weights = sum(sizes.pop(name) for name in symbol.list_arguments() if name not in inputs)
    outputs = sum(sizes.values()) + 2 * max(sizes.values())
    copies = 2 + (accumulate > 1) + _OPTIMIZER_STATES.get(optimizer, 1)
    return weights * 4 * copies, outputs * np.dtype(dtype).itemsize


def check_memory(
    symbol: mx.sym.Symbol,
    contexts: List[mx.Context],
    shape: Tuple[int, int, int, int],
    optimizer: str,
    dtype: str,
    accumulate: int,
) -> None:
    """Raise UserError if a batch does not fit into the memory of the GPUs; it names the largest.

    CPUs are not checked. ``shape``: of a batch over all contexts, (N, C, H, W); the rest is as
    :func:`training_memory` takes it.
    """
    if contexts[0].device_type != "gpu":
        return
    fixed, image = training_memory(symbol, shape[1:], optimizer, dtype, accumulate)
    _, cards = cuda.driver_and_cards()
    gpu = min((context.device_id for context in contexts), key=lambda i: cards[i].free)
    needed = fixed + image * -(-shape[0] // len(contexts)) + _ALLOWANCE
    free = cards[gpu].free
    if needed <= free:
        return
    largest = max(0, (free - _ALLOWANCE - fixed) // image) * len(contexts)
    remedy = f"the largest that fits is {largest}" if largest else "not even one image fits"
    raise UserError(
        f"--batch-size {shape[0]}: takes about {needed / _GIB:.1f} GiB a GPU, and GPU {gpu}"
        f" ({cards[gpu].name}) has {free / _GIB:.1f} free; {remedy}"
    )
