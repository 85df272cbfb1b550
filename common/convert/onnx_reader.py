"""An ONNX network: OpenCV reads and runs it; the onnx package tells what OpenCV does not."""

import os
import re

import numpy as np

from common.cli import UserError
from common.io.opencv import cv2

from .alexnet_import import SourceNetwork, layers_of

_DAMAGED = ValueError, TypeError, LookupError, AttributeError  # what a wrong field ends in
# ONNX's name of an LRN setting -> MXNet's, and ONNX's default.
_LRN = {
    "size": ("nsize", None),
    "alpha": ("alpha", 1e-4),
    "beta": ("beta", 0.75),
    "bias": ("knorm", 1),
}


def read(path: str, rgb: bool = False) -> SourceNetwork:
    """The network of an ONNX file, whose weights may lie in files beside it.

    With ``rgb`` it takes images in R, G, B order, not in B, G, R. UserError if the onnx package is
    missing, the file is damaged, OpenCV cannot read it, or it says another order of colours;
    OSError if it is missing.
    """
    try:
        import onnx
        from google.protobuf import message
    except ImportError:
        raise UserError(f"{path}: needs the onnx package; pip install '.[onnx]'")
    try:
        model = _load(path)
        image_shape = _image_shape(model.graph)
        nodes = [(node.op_type, _attributes(node)) for node in model.graph.node]
        lrn = [_lrn_settings(attrs) for op, attrs in nodes if op == "LRN"]
        for node in model.graph.node:
            _drop_pooling_of_one(node)
        poolings = [_rounding(_attributes(n)) for n in model.graph.node if "Pool" in n.op_type]
        content = np.frombuffer(model.SerializeToString(), np.uint8)
    except (message.Error, onnx.checker.ValidationError, *_DAMAGED):
        raise UserError(f"{path}: is damaged, or is no ONNX network of AlexNet's kind")
    _check(path, model, image_shape, rgb)
    try:
        net = cv2.dnn.readNetFromONNX(content)
    except cv2.error:
        raise UserError(f"{path}: OpenCV cannot read it, so it cannot be checked")
    return SourceNetwork((path,), image_shape, net, layers_of(net, path), lrn, poolings, rgb)


def _drop_pooling_of_one(node):
    """torch.onnx writes an average over windows of 1x1, of torchvision's adaptive pooling."""
    said = _attributes(node)
    if node.op_type == "AveragePool" and [*said["kernel_shape"], *said["strides"]] == [1] * 4:
        node.op_type = "Identity"
        del node.attribute[:]


def _check(path, model, image_shape, rgb):
    for node in model.graph.node:
        if re.search("QLinear|Quantize|Integer", node.op_type):
            raise UserError(
                f"{path}: has {node.op_type} ({node.name or node.output[0]}): an int8 network;"
                " take the float32 one, and quantize.py makes an int8 one of it"
            )
    said = {entry.key: entry.value for entry in model.metadata_props}
    if said.get("channel_order") == '"RGB"' and not rgb:
        raise UserError(
            f"{path}: takes R, G, B, as export_onnx.py writes it; pass --channel-order RGB, and its"
            " --mean and --std"
        )
    if 0 in image_shape:
        raise UserError(
            f"{path}: takes images of any size, but AlexNet does not; set one with python -m"
            " onnxruntime.tools.make_dynamic_shape_fixed"
        )


def _load(path):
    """The model with all its weights: on those in a second file, OpenCV divides by zero."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path, load_external_data=False)
    folder = os.path.dirname(path)
    for tensor in model.graph.initializer:
        second = {entry.key: entry.value for entry in tensor.external_data}.get("location")
        if second and not os.path.isfile(os.path.join(folder, second)):
            raise UserError(f"{path}: has its weights in {second}, which is not beside it")
    onnx.load_external_data_for_model(model, folder)
    for tensor in model.graph.initializer:
        numpy_helper.to_array(tensor)  # fails where the second file is cut
    return model


def _image_shape(graph):
    """(C, H, W) of the one input that is no constant."""
    constants = {value.name for value in graph.initializer}
    (image,) = (value for value in graph.input if value.name not in constants)
    _, channels, height, width = (d.dim_value for d in image.type.tensor_type.shape.dim)
    return channels, height, width


def _attributes(node):
    from onnx import helper

    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def _lrn_settings(attrs):
    """An LRN's settings in MXNet's terms."""
    return {ours: float(attrs.get(key, default)) for key, (ours, default) in _LRN.items()}


def _rounding(attrs):
    """How a pooling rounds map sizes: 'valid' down, 'full' up.

    Files from before opset 10 cannot say it; they pad the end of a map by one row and column.
    """
    pads = list(attrs.get("pads", []))
    half = len(pads) // 2
    return "full" if attrs.get("ceil_mode") or pads[:half] != pads[half:] else "valid"
