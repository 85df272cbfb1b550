"""What the importers share: another framework's AlexNet as layers, and the same in MXNet.

A model of ``import_caffe`` or ``import_onnx`` has

- ``files``: their paths; the layers are in the first, the weights in the last;
- ``image_shape``: (C, H, W);
- ``layers``: each a :class:`Layer`, in order;
- ``weights(layer)``: its weight and bias, as the file has them;
- ``network``: OpenCV's reading of the same files, for images in Caffe's order of colours, B, G, R.
"""

import ast
import itertools
import json
from typing import List, NamedTuple

import numpy as np

import symbols
from common.cli import UserError
from common.io.opencv import cv2
from common.runtime.mxnet import mx

from . import compare

NETWORK = "alexnet2012"

# What MXNet takes where a node says nothing.
DEFAULTS = {
    "Convolution": {"stride": (1, 1), "pad": (0, 0), "dilate": (1, 1), "num_group": 1},
    "Pooling": {"stride": (1, 1), "pad": (0, 0), "pooling_convention": "valid"},
}
# What the file decides and the network need not agree with: LRN's k, how map sizes are rounded.
_OF_THE_FILE = "knorm", "pooling_convention"
_NOT_COMPARED = "null", "Dropout", "Flatten"  # variables, and what inference does without


class Layer(NamedTuple):
    """An operator in MXNet's terms: what it computes in inference."""

    name: str  # in the file
    op: str
    attrs: dict  # such as {"kernel": (3, 3)}; all of them, defaults included


def number(value: float) -> float:
    """A number without the noise of its float32 form: 9.99999975e-05 is 1e-4, and 1.0 is 1."""
    value = float(f"{value:.6g}")
    return int(value) if value.is_integer() else value


def translate(given: dict, known: dict, harmless: set) -> dict:
    """The attributes of a layer in MXNet's terms.

    Args:
        given: parameters as the file has them.
        known: their names -> MXNet's, and the default.
        harmless: (name, value) of those that change nothing. What is neither known nor harmless
            is kept as it is, for :func:`build` to refuse.
    """
    attrs = {mxnet: given.get(key, default) for key, (mxnet, default) in known.items()}
    for key, value in given.items():
        if key not in known and (key, value) not in harmless:
            attrs[key] = value
    return attrs


def build(model) -> mx.sym.Symbol:
    """``alexnet2012`` with the classes, LRN's k and pooling of ``model``.

    Raises:
        UserError: the model is another network; it names the first layer that differs.
    """
    graph = json.loads(symbols.get_symbol(NETWORK, _classes(model.layers)).tojson())
    nodes = [node for node in graph["nodes"] if node["op"] not in _NOT_COMPARED]
    for node, layer in itertools.zip_longest(nodes, model.layers):
        if layer is None or node is None or layer.op != node["op"]:
            found = f"layer {layer.name} is {layer.op}" if layer else "the file ends"
            wanted = f"has {node['op']} ({node['name']})" if node else "ends"
            raise UserError(f"{model.files[0]}: {found} where {NETWORK} {wanted}")
        attrs = node.setdefault("attrs", {})
        for key in set(_OF_THE_FILE) & set(layer.attrs):
            if layer.attrs[key] != DEFAULTS.get(layer.op, {}).get(key):
                attrs[key] = str(layer.attrs[key])
        _compare(model.files[0], layer, {**DEFAULTS.get(layer.op, {}), **_values(attrs)})
    try:
        return mx.sym.load_json(json.dumps(graph))
    except mx.MXNetError:
        raise UserError(f"{model.files[0]}: has a k of LRN that MXNet does not take")


def _classes(layers):
    """How many; None, for the default, where the layers say no sensible number."""
    outputs = [layer.attrs["num_hidden"] for layer in layers if layer.op == "FullyConnected"]
    return outputs[-1] if outputs and outputs[-1] in range(1, 1 << 20) else None


def _values(attrs):
    numeric = {"(", *"0123456789"}
    return {k: ast.literal_eval(v) if v[0] in numeric else v for k, v in attrs.items()}


def _compare(path, layer, expected):
    for key in sorted(expected.keys() | layer.attrs.keys()):
        found, wanted = layer.attrs.get(key), expected.get(key)
        if found != wanted:
            other = f"not {wanted}" if key in expected else "which it has not"
            raise UserError(
                f"{path}: is no {NETWORK}: layer {layer.name} has {key} {found}, {other}"
            )


def parameters(symbol: mx.sym.Symbol, model) -> dict:
    """Name -> array, the weights of ``symbol`` out of ``model``; conv1 takes R, G, B order.

    Raises:
        UserError: some have another shape, or the model's images are too small.
    """
    try:
        symbols.check_image_shape(symbol, model.image_shape)
    except ValueError:
        raise UserError(f"{model.files[0]}: images of {_by(model.image_shape)} are too small")
    shapes, _, _ = symbol.infer_shape(data=(1, *model.image_shape))
    shape_of = dict(zip(symbol.list_arguments(), shapes))
    weighted = [layer for layer in model.layers if layer.op in ("Convolution", "FullyConnected")]
    names = [name for name in shape_of if name.endswith(("_weight", "_bias"))]
    arrays = [(layer, array) for layer in weighted for array in model.weights(layer)]
    found = {}
    for name, (layer, array) in zip(names, arrays):
        if np.squeeze(array).shape != tuple(n for n in shape_of[name] if n != 1):
            raise UserError(
                f"{model.files[-1]}: layer {layer.name} has weights of {_by(array.shape)}, which on"
                f" images of {_by(model.image_shape)} would be {_by(shape_of[name])}"
            )
        found[name] = array.reshape(shape_of[name])
    found["conv1_weight"] = found["conv1_weight"][:, ::-1]
    return {name: mx.nd.array(array, dtype=np.float32) for name, array in found.items()}


def _by(shape):
    return "x".join(map(str, shape))


def difference(symbol: mx.sym.Symbol, arg_params: dict, model, mean: List[float]) -> float:
    """The largest difference between MXNet and OpenCV in a probability, on eight pictures.

    Raises:
        UserError: it is too large, or OpenCV cannot run the model.
    """
    images = _pictures(*model.image_shape) - np.float32(mean)[:, None, None]
    if hasattr(model.network, "enableWinograd"):  # less exact; OpenCV before 4.7 has it not
        model.network.enableWinograd(False)

    def run(image):
        model.network.setInput(image)
        return model.network.forward()

    try:
        said = compare.in_batches(run, np.ascontiguousarray(images[:, ::-1]), 1)
    except cv2.error:
        raise UserError(f"{model.files[-1]}: OpenCV cannot run it, so it cannot be compared")
    expected = compare.probabilities(symbol, arg_params, {}, images)
    return compare.difference(f"{model.files[-1]} in OpenCV", said, expected)


def _pictures(channels, height, width):
    """(8, C, H, W), 0 to 255: four are noise, four are smooth, as photographs are."""
    rng = np.random.default_rng(0)
    pictures = []
    for cell in (1, 1, 1, 1, 8, 16, 32, 64):  # pixels
        noise = rng.normal(128, 80, (height // cell + 2, width // cell + 2, channels))
        large = cv2.resize(noise.clip(0, 255), (width, height), interpolation=cv2.INTER_LINEAR)
        pictures.append(large.transpose(2, 0, 1))
    return np.float32(pictures)
