"""An ONNX network: its layers and weights, read by the onnx package; OpenCV runs it."""

import functools
from typing import Dict, List

import numpy as np

from common.cli import UserError
from common.io.opencv import cv2

from .alexnet_import import NETWORK, Layer, number, translate

# Operator -> MXNet's, what is always so of it in MXNet's terms, and its attributes: MXNet's name,
# ONNX's default.
_OPERATORS = {
    "Conv": (
        "Convolution",
        {},
        {
            "kernel_shape": ("kernel", None),
            "strides": ("stride", (1, 1)),
            "pads": ("pad", (0, 0, 0, 0)),
            "dilations": ("dilate", (1, 1)),
            "group": ("num_group", 1),
        },
    ),
    "Relu": ("Activation", {"act_type": "relu"}, {}),
    "LRN": (
        "LRN",
        {},
        {
            "size": ("nsize", None),
            "alpha": ("alpha", 1e-4),
            "beta": ("beta", 0.75),
            "bias": ("knorm", 1),
        },
    ),
    "MaxPool": (
        "Pooling",
        {"pool_type": "max"},
        {
            "kernel_shape": ("kernel", None),
            "strides": ("stride", (1, 1)),
            "pads": ("pad", (0, 0, 0, 0)),
            "ceil_mode": ("pooling_convention", 0),
        },
    ),
    "Gemm": ("FullyConnected", {}, {}),
    "Softmax": ("SoftmaxOutput", {}, {}),
}
# In inference; of how Flatten and Reshape do it, the weights' shapes tell.
_WITHOUT_EFFECT = "Dropout", "Identity", "Flatten", "Reshape"
_CONSTANTS = "Constant", "ConstantOfShape"
_HARMLESS = {
    ("auto_pad", "NOTSET"), ("storage_order", 0), ("alpha", 1), ("beta", 1), ("broadcast", 1),
    ("transA", 0), ("transB", 0), ("transB", 1), ("axis", 1), ("axis", -1),
    ("consumed_inputs", (0,)),
}  # fmt: skip
_DAMAGED = ValueError, TypeError, LookupError, AttributeError  # what a wrong field ends in


class Model:
    """An ONNX file; see ``import_network``."""

    def __init__(self, path: str):
        """Read layers and weights.

        Raises:
            UserError: the onnx package is missing, or the file is damaged, or no chain of layers
                for images in B, G, R order.
            OSError: it is missing.
        """
        try:
            import onnx
            from google.protobuf.message import DecodeError
        except ImportError:
            raise UserError("--onnx: needs the onnx package; pip install '.[onnx]'")
        self.files = [path]
        self.layers: List[Layer] = []
        self._weights: Dict[str, List[np.ndarray]] = {}
        try:
            model = onnx.load(path)
            self._read(model.graph)
        except (DecodeError, onnx.checker.ValidationError, *_DAMAGED):
            raise UserError(f"{path}: is damaged, or is no ONNX network of AlexNet's kind")
        said = {entry.key: entry.value for entry in model.metadata_props}
        if said.get("channel_order") == '"RGB"':
            raise UserError(
                f"{path}: takes R, G, B, as export_onnx.py writes it; Caffe's is B, G, R"
            )

    def _read(self, graph):
        from onnx import helper, numpy_helper

        constants = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
        (image,) = (value for value in graph.input if value.name not in constants)
        _, channels, height, width = (d.dim_value for d in image.type.tensor_type.shape.dim)
        self.image_shape = channels, height, width
        before = image.name
        for node in graph.node:
            attrs = {a.name: _value(helper.get_attribute_value(a)) for a in node.attribute}
            if node.op_type in _CONSTANTS:
                constants[node.output[0]] = _constant(node, attrs, constants)
                continue
            name = node.name or node.output[0]
            if node.input[0] != before:
                raise UserError(
                    f"{self.files[0]}: layer {name}: takes {node.input[0]}, not {before}"
                )
            before = node.output[0]
            if node.op_type not in _WITHOUT_EFFECT:
                self._add(name, node, attrs, constants)
        if [value.name for value in graph.output] != [before]:
            raise ValueError("an output that is not the last layer's")

    def _add(self, name, node, attrs, constants):
        if node.op_type not in _OPERATORS:
            raise UserError(
                f"{self.files[0]}: layer {name} is {node.op_type}, which {NETWORK} has not"
            )
        op, always, known = _OPERATORS[node.op_type]
        layer = Layer(name, op, {**always, **translate(attrs, known, _HARMLESS)})
        if op in ("Convolution", "FullyConnected"):
            weight, bias = (constants[each] for each in node.input[1:])
            if op == "FullyConnected" and not attrs.get("transB"):
                weight = weight.T
            layer.attrs["num_filter" if op == "Convolution" else "num_hidden"] = len(weight)
            self._weights[name] = [weight, bias]
        if "pad" in layer.attrs:
            _set_pads(layer)
        self.layers.append(layer)

    def weights(self, layer: Layer) -> List[np.ndarray]:
        """A layer's weight and bias."""
        return self._weights[layer.name]

    @functools.cached_property
    def network(self) -> cv2.dnn.Net:
        """OpenCV's reading of the file.

        Raises:
            UserError: it cannot.
        """
        try:
            return cv2.dnn.readNetFromONNX(self.files[0])
        except cv2.error:
            raise UserError(f"{self.files[0]}: OpenCV cannot read it, so it cannot be checked")


def _value(value):
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, float):
        return number(value)
    return value.decode() if isinstance(value, bytes) else value


def _constant(node, attrs, constants):
    from onnx import numpy_helper

    if node.op_type == "Constant":
        return numpy_helper.to_array(attrs["value"])
    value = numpy_helper.to_array(attrs["value"]) if "value" in attrs else np.zeros(1, np.float32)
    return np.broadcast_to(value, constants[node.input[0]])


def _set_pads(layer):
    """Pads in MXNet's terms: each side's, where both are the same, and how sizes are rounded.

    One more row at the end of a map is how older files say that sizes are rounded up, at stride 2.
    """
    pads = layer.attrs["pad"]
    if layer.op == "Pooling":
        up = bool(layer.attrs["pooling_convention"]) or pads == (0, 0, 1, 1)
        pads = (0, 0, 0, 0) if pads == (0, 0, 1, 1) else pads
        layer.attrs["pooling_convention"] = "full" if up else "valid"
    half = len(pads) // 2
    layer.attrs["pad"] = pads[:half] if pads[:half] == pads[half:] else pads
