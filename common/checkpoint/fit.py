"""Whether a graph is sound, and whether weights fit it: checked when a checkpoint is loaded."""

import os
from typing import Optional, Sequence

from common.cli import UserError
from common.graph.dequantize import is_quantized
from common.graph.graph import Graph
from common.runtime.mxnet import mx

_INPUTS = ("data", "softmax_label")


def check_graph(symbol: mx.sym.Symbol) -> None:
    """Raise ValueError if a node reads an output that does not exist: MXNet crashes on it."""
    if any(output.index >= output.node.outputs for output in Graph(symbol).taken()):
        raise ValueError("a node of the graph takes an output that is not there")


def read_graph(path: str) -> mx.sym.Symbol:
    """The float32 graph in a ``-symbol.json``; UserError if it is missing, damaged or int8."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file")
    try:
        symbol = mx.sym.load(path)
        check_graph(symbol)
    except (mx.base.MXNetError, ValueError, LookupError) as error:
        raise UserError(f"{path}: is no graph of MXNet's: {str(error).strip().splitlines()[-1]}")
    if is_quantized(symbol):
        raise UserError(f"{path}: is int8, which cannot be trained; give the float32 one")
    return symbol


def check_weights(
    path: str, symbol: mx.sym.Symbol, weights: dict, image_shape: Optional[Sequence[int]] = None
) -> None:
    """Raise UserError unless the graph has all its weights, in the shapes that it needs.

    Args:
        path: of the weights, for the message.
        weights: name -> array, auxiliary states among them.
        image_shape: (channels, height, width) of the network's input; None if it is unknown, and
            then only those shapes are compared that the graph alone determines.
    """
    needed = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    for name in needed:
        if name not in weights and name not in _INPUTS:
            raise UserError(f"{path}: has no {name}, which the graph needs; copy both files anew")
    inputs = {"data": (1, *image_shape)} if image_shape else {}
    try:
        shapes = Graph(symbol).shapes(**inputs)
    except mx.base.MXNetError:
        size = ",".join(map(str, image_shape or ()))
        raise UserError(f"{path}: images of {size} do not fit the graph; it is for other sizes")
    for name in needed:
        wanted = shapes.get(name, ())
        if name in weights and wanted and all(wanted) and weights[name].shape != wanted:
            found, right = ("x".join(map(str, one)) for one in (weights[name].shape, wanted))
            raise UserError(
                f"{path}: {name} is {found}, and the graph needs {right}; copy both files anew"
            )
