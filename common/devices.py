"""``--gpus`` and ``--cpus`` -> MXNet contexts, or one line that says why not."""

from typing import List, Optional

import mxnet as mx

from common.cli import UserError


def contexts(gpus: Optional[List[int]], cpus: int = 1) -> List[mx.Context]:
    """The devices to train on: the GPUs of that number, else ``cpus`` contexts on the processor.

    Several CPU contexts share the same cores: they make nothing faster, but they run the same
    data-parallel code as several GPUs do, to the same result.

    Raises:
        UserError: an MXNet without CUDA, a GPU that is not there, or one named twice.
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
    present = mx.context.num_gpus()
    missing = [gpu for gpu in gpus if not 0 <= gpu < present]
    if missing:
        there = f"0 to {present - 1}" if present else "none"
        raise UserError(f"{flag}: there is no GPU {missing[0]} (MXNet sees {there})")
    return [mx.gpu(i) for i in gpus]
