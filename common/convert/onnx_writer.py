"""Writing a network as ONNX, with MXNet's own converter, and running it in other engines.

Five faults of ``mx.onnx.export_model`` in MXNet 1.9.1 are corrected:

- It takes a FullyConnected that leaves ``flatten`` at its default, True, for one with False. It
  then adds a Reshape, with which OpenCV silently computes wrong values at a dynamic batch size.
- It turns weights into Python lists, which takes gigabytes. So the weights are converted as
  inputs, and made constants here.
- It declares the newest opset that the onnx package knows, although the operators are of opset 13.
  Servers refuse an opset that is newer than they are.
- It gives PReLU's slopes one dimension, which ONNX takes for the map's columns.
- It leaves an unused constant, which ONNX Runtime warns about.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import re
import tempfile
from typing import Any, Dict, Optional, Sequence

import numpy as np

from common.cli import UserError
from common.evaluate.network import class_names
from common.graph.graph import Graph
from common.input.preparation import Preparation
from common.io.opencv import cv2
from common.runtime import bootstrap
from common.runtime.mxnet import mx

from . import compare

_OPSET, _IR_VERSION = 13, 7  # from 2020; ONNX Runtime reads them from 1.7 on


def check_packages() -> None:
    """UserError if onnx or onnxruntime is missing, or onnx is too old or too new for MXNet."""
    for name in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"{name}: is not installed; pip install '.[onnx]'")
    version = importlib.metadata.version("onnx")
    if not (1, 13, 1) <= tuple(map(int, re.findall(r"\d+", version)[:3])) < (1, 24):
        raise UserError(
            f"onnx {version}: MXNet's converter works with 1.13.1 to 1.23; pip install '.[onnx]'"
        )


def convert(
    symbol: mx.sym.Symbol,
    arg_params: dict,
    aux_params: dict,
    image_shape: Sequence[int],
    batch_size: Optional[int],
) -> Any:
    """An ``onnx.ModelProto`` of the network: ``data`` (N, C, H, W) -> ``softmax`` (N, classes).

    ``symbol`` is what :func:`compare.without_training` gives, float32. None for ``batch_size``
    allows any. onnx.checker.ValidationError if the converter wrote no valid model.
    """
    from onnx import checker, numpy_helper

    weights = {**arg_params, **aux_params}
    images = (batch_size or 1, *image_shape)
    shapes = [weights[name].shape if name in weights else images for name in symbol.list_inputs()]
    model = _convert_graph(_with_flatten(symbol), shapes)
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    _keep(graph.initializer, lambda value: value.name in used)
    _keep(graph.input, lambda value: value.name not in weights)
    weights.update(_shaped_slopes(symbol, weights, images))
    for name in sorted(used & weights.keys()):
        graph.initializer.append(numpy_helper.from_array(weights[name].asnumpy(), name))
    if batch_size is None:
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    model.ir_version = _IR_VERSION
    model.opset_import[0].version = _OPSET
    checker.check_model(model)
    return model


def _convert_graph(symbol, shapes):
    """What MXNet's converter makes of ``symbol``, with all weights as inputs."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "graph.onnx")
        bootstrap.supply_onnx_mapping()
        mx.onnx.export_model(symbol, {}, shapes, np.float32, path)
        return onnx.load(path)


def _with_flatten(symbol):
    graph = Graph(symbol)
    for node in graph.nodes:
        if node.op == "FullyConnected":
            node.attrs.setdefault("flatten", "True")
    return graph.symbol()


def _shaped_slopes(symbol, weights, images):
    """PReLU's slopes, with a dimension of 1 for each that comes after the channels'."""
    graph = Graph(symbol)
    shapes, shaped = graph.shapes(data=images), {}
    for node in graph.nodes:
        if node.settings.get("act_type") == "prelu":
            name, rank = node.inputs[1].node.name, len(shapes[f"{node.name}_output"])
            shaped[name] = weights[name].reshape((-1, *[1] * (rank - 2)))
    return shaped


def _keep(values, wanted):
    kept = [value for value in values if wanted(value)]
    del values[:]
    values.extend(kept)


def metadata(config: dict) -> Dict[str, str]:
    """The file's ``metadata_props``, from a checkpoint's config; docs/serving.md lists them."""
    trained = config["args"]
    said = dataclasses.asdict(Preparation.from_args(trained))
    said["channel_order"] = "grey" if trained["image_shape"][0] == 1 else "RGB"
    said["classes"] = class_names(config)
    return {key: json.dumps(value, ensure_ascii=False) for key, value in said.items()}


def _onnxruntime(content):
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"data": batch})[0]


def _opencv(content):
    network = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))

    def run(batch):
        network.setInput(batch, "data")
        return network.forward()

    return run


_ENGINES = {"ONNX Runtime": _onnxruntime, "OpenCV": _opencv}


def differences(
    content: bytes, images: np.ndarray, expected: np.ndarray, batch_sizes: Sequence[int]
) -> Dict[str, float]:
    """Run an ONNX file's content in ONNX Runtime and in OpenCV, with each of ``batch_sizes``.

    It is given images (N, C, H, W) float32, and ``expected`` to answer (N, classes) probabilities.
    Engine -> the largest difference; UserError if :func:`compare.difference` does not allow it.
    """
    largest = {}
    for engine, load in _ENGINES.items():
        run = load(content)
        largest[engine] = max(
            compare.difference(engine, compare.in_batches(run, images, size), expected)
            for size in batch_sizes
        )
    return largest
