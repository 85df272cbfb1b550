"""A checkpoint's network, bound for inference."""

import argparse
import functools
import sys
from typing import Dict, List, Sequence, Tuple

import numpy as np

from common.checkpoint import store
from common.checkpoint.config import load_config
from common.cli import UserError
from common.graph import dequantize, lowering
from common.graph.graph import Graph
from common.graph.inference_weights import use_inference_weights
from common.graph.int8_operators import use_int8_operators
from common.runtime import native
from common.runtime.mxnet import mx


def bind(
    symbol: mx.sym.Symbol,
    arg_params: dict,
    aux_params: dict,
    data_shape: Sequence[int],
    contexts: List[mx.Context],
    dtype: str = "float32",
) -> mx.mod.Module:
    """A module that runs the plain network with these weights on (N, C, H, W) batches.

    On the CPU our operators compute convolutions and fully connected layers; ``dtype`` is one of
    DTYPES that :func:`check_dtype` has accepted. int8 networks run by operators of ours, too; on a
    CPU without VNNI they run in float32, which a line on stderr says. Bind another module for other
    weights: after its first forward pass MXNet's CPU build keeps its own copy of the weights and
    silently ignores what is set later.
    """
    if contexts[0].device_type == "cpu":
        integers = {}
        if dequantize.needed(symbol):
            _say_float32()
            integers = dequantize.integers(arg_params)
            symbol, arg_params = dequantize.dequantized(symbol, arg_params)
        own = (data_shape[0] // len(contexts), *data_shape[1:])
        symbol = lowering.for_cpu(symbol, own, for_training=False, dtype=dtype)
        symbol, arg_params = use_inference_weights(symbol, arg_params, own[0], integers, dtype)
        if dequantize.is_quantized(symbol) and native.has_int8():
            symbol, arg_params = use_int8_operators(symbol, arg_params, own[0])
    labels = None  # export_mxnet.py's copies have none
    if "softmax_label" in symbol.list_arguments():
        labels = [("softmax_label", data_shape[:1])]
    module = mx.mod.Module(symbol, label_names=labels and ["softmax_label"], context=contexts)
    module.bind([("data", data_shape)], labels, for_training=False)
    module.set_params(arg_params, aux_params)
    return module


# What a network's layers multiply, on the CPU. bfloat16: weights of fully connected layers have 16
# bits, which are read in half the time, and products may be AMX's; all else is float32.
DTYPES = ("float32", "bfloat16")


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """The flag ``--dtype``."""
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="bfloat16: on the CPU, layers multiply values of 16 bits, faster with AMX, and with"
        " one picture a pass",
    )


def check_dtype(dtype: str, symbol: mx.sym.Symbol, contexts: List[mx.Context]) -> None:
    """Raise UserError if the network cannot run in ``dtype``, one of DTYPES, there."""
    if dtype == "float32":
        return
    if dequantize.is_quantized(symbol):
        raise UserError(
            f"--dtype {dtype}: this checkpoint is int8, which is narrower; leave it out"
        )
    lowering.check_bfloat16(contexts)


@functools.lru_cache(None)  # once in a process
def _say_float32():
    print(
        "int8: this CPU has no VNNI, so sums are float32, which is faster"
        f" ({dequantize.KEEP}=1: integers)",
        file=sys.stderr,
    )


def up_to(network: tuple, layer: str) -> tuple:
    """The part of a network, (symbol, arg_params, aux_params), that computes the output of a layer.

    ``layer`` is a name in the table of ``python -m symbols NETWORK``; UserError lists those that
    are there if it is not.
    """
    symbol, *params = network
    outputs = [name for name in symbol.get_internals().list_outputs() if name.endswith("_output")]
    if f"{layer}_output" not in outputs:
        names = ", ".join(name[: -len("_output")] for name in outputs)
        raise UserError(f"layer {layer}: is not in this network, which has {names}")
    part = symbol.get_internals()[f"{layer}_output"]
    needed = {*part.list_arguments(), *part.list_auxiliary_states()}
    return (part, *({n: a for n, a in group.items() if n in needed} for group in params))


def first_kernels(network: tuple) -> Tuple[str, np.ndarray]:
    """The first convolution's name and its kernels, (N, C, height, width).

    UserError if the network has no such layer, as int8 ones have none.
    """
    symbol, arg_params, _ = network
    for node in Graph(symbol).nodes:
        if node.op == "Convolution":
            return node.name, arg_params[node.inputs[1].node.name].asnumpy()
    raise UserError("the network has no layer Convolution; int8 networks have others")


def activations(network: tuple) -> Dict[str, str]:
    """Each convolution's activation, or itself where none reads it, and what to call it.

    int8 networks have no layer Convolution, so nothing here.
    """
    nodes = Graph(network[0]).nodes
    reading = {
        node.inputs[0].node: node.name for node in nodes if node.op in ("Activation", "LeakyReLU")
    }
    return {
        reading.get(node, node.name): ", ".join(filter(None, (node.name, reading.get(node))))
        for node in nodes
        if node.op == "Convolution"
    }


def check_finite(network: tuple, where: str) -> None:
    """Raise UserError if a weight is not finite; the message begins with ``where``."""
    for group in network[1:]:
        for name, array in group.items():
            if not np.isfinite(array.asnumpy()).all():
                raise UserError(
                    f"{where}: {name} is not finite, so training has diverged; take an earlier"
                    " checkpoint"
                )


def outputs(module: mx.mod.Module, images: mx.nd.NDArray) -> mx.nd.NDArray:
    """What a bound network makes of a batch (N, C, H, W): (N, ...), on the first device."""
    module.forward(mx.io.DataBatch([images]), is_train=False)
    return module.get_outputs()[0]


def load(prefix: str, epoch: int, contexts: List[mx.Context]) -> Tuple[dict, tuple]:
    """A checkpoint's config, and its (symbol, arg_params, aux_params), the first arguments of
    :func:`bind`; UserError if a file is damaged, or int8 weights are to run on a GPU.
    """
    config = load_config(prefix)
    if "int8" in config and contexts[0].device_type == "gpu":
        raise UserError("--gpus: an int8 checkpoint runs on the CPU only; leave the flag out")
    return config, store.load(prefix, epoch)


def class_names(config: dict) -> List[str]:
    """The names of a checkpoint's classes, or their numbers where it has no names."""
    return config["classes"] or [str(i) for i in range(config["args"]["num_classes"])]
