"""Another framework's AlexNet, as OpenCV reads it, made an MXNet network with the same weights.

common/convert/caffe_reader.py and onnx_reader.py read the files, with OpenCV. Here the chain of
layers is compared with our network's, the weights are renamed, and the result is run beside OpenCV
on the files themselves. What the chain and the shapes of the weights do not show, such as strides,
padding and the kind of pooling, those probabilities do.
"""

import itertools
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

from common.cli import UserError
from common.graph.graph import Graph
from common.io.opencv import cv2
from common.runtime.mxnet import mx

from . import compare
from .compare import by

# OpenCV's type of a layer -> MXNet's operator.
_OPERATORS = {
    "Convolution": "Convolution",
    "ReLU": "Activation",
    "LRN": "LRN",
    "Pooling": "Pooling",
    "InnerProduct": "FullyConnected",
    "Gemm": "FullyConnected",  # what newer versions of OpenCV make of ONNX's
    "MatMul": "FullyConnected",  # with the Add behind it
    "Softmax": "SoftmaxOutput",
}
_WEIGHTED = "Convolution", "FullyConnected"
_WITHOUT_EFFECT = "Dropout", "Flatten", "Reshape", "Identity"  # in inference, on a chain


class SourceNetwork(NamedTuple):
    """A network for inference, as it was read from another framework's files."""

    files: Tuple[str, ...]  # the layers are in the first, the weights in the last
    image_shape: Tuple[int, int, int]  # (C, H, W)
    net: "cv2.dnn.Net"
    layers: List["cv2.dnn.Layer"]  # those with an effect, in order
    lrn: List[Dict[str, float]]  # of each LRN: nsize, alpha, beta, knorm
    poolings: List[str]  # how each pooling rounds map sizes: 'valid' down, 'full' up
    rgb: bool = False  # the order of colours that ``net`` takes; else B, G, R


def layers_of(net: "cv2.dnn.Net", path: str) -> List["cv2.dnn.Layer"]:
    """The layers of ``net`` that have an effect in inference.

    UserError, which names ``path``, if OpenCV cannot make a layer of what it read.
    """
    layers = []
    for name in net.getLayerNames():
        try:
            layers.append(net.getLayer(net.getLayerId(name)))
        except cv2.error:
            raise UserError(
                f"{path}: layer {_plain(name)}: OpenCV cannot make it; it is of an unknown type, or"
                " its weights are missing or not of the size that its settings say"
            )
    return [layer for layer in layers if layer.type not in _WITHOUT_EFFECT]


def network(source: SourceNetwork) -> str:
    """Which of our networks ``source`` should be: its LRN, and what is before it, tell.

    UserError if it has batch normalization, so that it is none of them.
    """
    kinds = [layer.type for layer in source.layers]
    if "BatchNorm" in kinds:
        name = _plain(source.layers[kinds.index("BatchNorm")].name)
        raise UserError(
            f"{source.files[0]}: layer {name} is BatchNorm: a network such as AlexNet-BN, which is"
            " none of those here; --network alexnet --normalization bn-before trains one like it"
        )
    if "LRN" not in kinds:
        return "alexnet_owt"
    return "caffenet" if "Pooling" in kinds[: kinds.index("LRN")] else "alexnet2012"


def build(source: SourceNetwork, get_symbol: Callable[..., mx.sym.Symbol]) -> mx.sym.Symbol:
    """Our network with the classes of ``source``, its LRN's k and its rounding of map sizes.

    The softmax at its end may be missing in ``source``. ``get_symbol`` makes a symbol of (network,
    classes); classes may be None, for the network's own. UserError names the first layer that
    differs.
    """
    ours = network(source)
    graph = Graph(get_symbol(ours, _classes(source.layers)))
    nodes = [node for node in graph.nodes if node.op in _OPERATORS.values()]
    lrn, poolings = iter(source.lrn), iter(source.poolings)
    path = source.files[0]
    if not _has_softmax(source):
        nodes.pop()
    for node, layer in itertools.zip_longest(nodes, source.layers):
        if not (layer and node) or _OPERATORS.get(layer.type) != node.op:
            there = f"layer {_plain(layer.name)} is {layer.type}" if layer else "the file ends"
            wanted = f"has {node.op} ({node.name})" if node else "ends"
            raise UserError(f"{path}: {there} where {ours} {wanted}")
        if node.op == "LRN":
            _set_lrn(f"{path}: is no {ours}: layer {_plain(layer.name)}", node, next(lrn))
        if node.op == "Pooling":
            node.attrs.pop("pooling_convention", None)  # caffenet has one
            if next(poolings, "valid") == "full":
                node.attrs["pooling_convention"] = "full"
    return graph.symbol()


def _has_softmax(source):
    return bool(source.layers) and source.layers[-1].type == "Softmax"


def _plain(name):
    return name.split("!")[-1]  # OpenCV puts 'onnx_node!' before it


def _classes(layers):
    """How many, by the size of the last bias; None where there is none."""
    biases = [layer.blobs[1] for layer in layers if len(layer.blobs) == 2]
    return biases[-1].size if biases else None


def _set_lrn(layer, node, settings):
    """Take k over. Probabilities hardly show the other numbers, so they are compared here."""
    for key, value in settings.items():
        if key == "knorm" and np.isfinite(value):
            node.attrs[key] = f"{value:g}"
        elif not np.isclose(value, float(node.attrs[key]), rtol=1e-6, atol=0):  # float32's noise
            raise UserError(f"{layer} has {key} {value:g}, not {node.attrs[key]}")


def weights(source: SourceNetwork, symbol: mx.sym.Symbol) -> Dict[str, mx.nd.NDArray]:
    """Name -> float32 array, the weights of ``symbol``; conv1 takes images in R, G, B order.

    UserError if some have another shape, or the images are too small.
    """
    shapes = _shapes(source, symbol)
    names = [name for name in symbol.list_arguments() if name.endswith(("_weight", "_bias"))]
    layers = [layer for layer in source.layers if _OPERATORS[layer.type] in _WEIGHTED]
    path = source.files[-1]
    owners = [_plain(layer.name) for layer in layers for _ in ("weight", "bias")]
    arrays = dict(zip(names, (blob for one in layers for blob in _weight_and_bias(one, path))))
    for (name, array), owner in zip(_outputs_first(arrays, shapes).items(), owners):
        if np.squeeze(array).shape != tuple(n for n in shapes[name] if n != 1):
            raise UserError(
                f"{path}: layer {owner} has weights of {by(array.shape)}, which on"
                f" images of {by(source.image_shape)} would be {by(shapes[name])}"
            )
        arrays[name] = array.reshape(shapes[name])
    if not source.rgb:
        arrays["conv1_weight"] = arrays["conv1_weight"][:, ::-1]
    return {name: mx.nd.array(array, dtype=np.float32) for name, array in arrays.items()}


def _weight_and_bias(layer, path):
    if len(layer.blobs) != 2:
        raise UserError(f"{path}: layer {_plain(layer.name)} has no weight and bias")
    return layer.blobs


def _shapes(source, symbol):
    """Name -> shape of what ``symbol`` computes and takes, on the images of ``source``."""
    try:
        shapes = Graph(symbol).shapes(data=(1, *source.image_shape))
    except mx.MXNetError:
        shapes = {"data": ()}
    if not all(shape and min(shape) > 0 for shape in shapes.values()):
        raise UserError(f"{source.files[0]}: images of {by(source.image_shape)} are too small")
    return shapes


def _outputs_first(arrays, shapes):
    """Fully connected weights as (outputs, inputs); some ONNX files have (inputs, outputs).

    All of a file are in the same order, and those that are not square show which.
    """
    dense = [n for n, array in arrays.items() if array.ndim == 2 and n.endswith("_weight")]
    if any(arrays[name].shape == shapes[name][::-1] != shapes[name] for name in dense):
        return {**arrays, **{name: arrays[name].T for name in dense}}
    return arrays


def difference(
    symbol: mx.sym.Symbol,
    arg_params: Dict[str, mx.nd.NDArray],
    source: SourceNetwork,
    mean: Sequence[float],
    std: Sequence[float] = (1, 1, 1),
) -> float:
    """The largest difference between MXNet and OpenCV in a probability, on eight pictures.

    The pictures less ``mean`` are divided by ``std``, those of R, G and B, 0 to 255. UserError if
    the difference is too large, or OpenCV cannot run the network.
    """
    images = compare.pictures(*source.image_shape) - np.float32(mean)[:, None, None]
    images /= np.float32(std)[:, None, None]
    if hasattr(source.net, "enableWinograd"):  # less exact; OpenCV has it from 4.7 on
        source.net.enableWinograd(False)

    def run(image):
        source.net.setInput(image)
        return source.net.forward()

    path = source.files[-1]
    try:
        theirs = images if source.rgb else np.ascontiguousarray(images[:, ::-1])
        said = compare.in_batches(run, theirs, 1)
    except cv2.error:
        shape = by(source.image_shape)
        raise UserError(f"{path}: OpenCV cannot run it on images of {shape}; its layers do not fit")
    expected = compare.probabilities(symbol, arg_params, {}, images)
    if said.shape != expected.shape:
        raise UserError(f"{path}: OpenCV's output is {by(said.shape)}, not {by(expected.shape)}")
    if not _has_softmax(source):
        powers = np.exp(said - said.max(axis=1, keepdims=True))
        said = powers / powers.sum(axis=1, keepdims=True)
    return compare.difference(f"{path} in OpenCV", said, expected)
