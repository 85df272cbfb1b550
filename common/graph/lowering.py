"""The graph that a CPU runs in place of a plain one: right gradients, faster layers.

docs/your-own-network.md shows it in a program of yours.
"""

import functools
import sys
from typing import List, Tuple

from common.cli import UserError
from common.runtime import native
from common.runtime.mxnet import mx

from .native_operators import MIN_IMAGES, use_native_operators
from .stock_leaky import decompose_leaky
from .stock_lrn import decompose_lrn


def for_cpu(
    symbol: mx.sym.Symbol,
    data: Tuple[int, ...],
    for_training: bool = True,
    input_gradient: bool = True,
    dtype: str = "float32",
) -> mx.sym.Symbol:
    """What to bind on the CPU in place of ``symbol``, any float32 graph; save the plain one.

    ``data`` is the shape of the input of that name as one device sees it; layers whose shapes it
    does not determine stay as they are. Arguments, auxiliary states and outputs stay.

    For training, LRN, PReLU and RReLU get right gradients; bind with ``grad_req="write"``. Where
    nobody reads the gradient of ``data``, say ``input_gradient=False``: it may then be wrong, and a
    first convolution with a stride is faster.

    With the ``dtype`` 'bfloat16' our convolutions and fully connected layers multiply values that
    are rounded to it, by AMX where the CPU has it; all else is float32, so are weights and sums.
    More convolutions are ours then.

    C++ operators compute the layers at which they are the faster ones. The first call on a machine
    builds them, which takes half a minute; inference with fewer than ``MIN_IMAGES`` images does not
    wait for that. Without a compiler, one line on stderr says so, and stock operators give the
    right gradients.
    """
    if for_training:
        symbol = decompose_leaky(symbol, data)
    elif data[0] < MIN_IMAGES and not native.is_built():
        return symbol
    if native.load():
        return use_native_operators(symbol, data, for_training, input_gradient, dtype)
    return decompose_lrn(symbol, data) if for_training else symbol


def check_bfloat16(contexts: List[mx.Context]) -> None:
    """Raise UserError if no layer can compute in bfloat16 there; without AMX a line says so."""
    if contexts[0].device_type == "gpu":
        raise UserError("--dtype bfloat16: is for CPUs; leave out --gpus, or --dtype")
    if not native.load():
        raise UserError("--dtype bfloat16: needs the C++ operators; leave it out")
    if not native.has_amx():
        _say_rounded()


@functools.lru_cache(None)  # once in a process
def _say_rounded():
    print(
        "bfloat16: this CPU has no AMX, so layers multiply rounded values as float32",
        file=sys.stderr,
    )
