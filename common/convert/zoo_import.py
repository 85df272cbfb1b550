"""torchvision's and Gluon's AlexNet, of weights alone, made ``alexnet_owt`` with the same weights.

Such a file says names and arrays, and nothing of strides, padding or pooling. Those are known: each
zoo has one AlexNet. So MXNet's probabilities are compared with those that numpy computes in float64
from the file's own arrays, by the layers of torchvision's source (models/alexnet.py).
"""

import os
import re
import struct
from typing import Dict

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from common.checkpoint.arrays import array_names
from common.cli import UserError
from common.graph.graph import Graph
from common.runtime.mxnet import mx

from . import compare, torch_file

NETWORK = "alexnet_owt"
IMAGE_SHAPE = (3, 224, 224)
# Of R, G and B, 0 to 255; the zoos have them for 0 to 1.
MEAN = [0.485 * 255, 0.456 * 255, 0.406 * 255]
STD = [0.229 * 255, 0.224 * 255, 0.225 * 255]
EXTENSIONS = (".pth", ".pt", ".tar", ".safetensors", ".params")

# The layers with weights, in order, by the names of each zoo.
TORCHVISION = [f"features.{i}" for i in (0, 3, 6, 8, 10)] + [f"classifier.{i}" for i in (1, 4, 6)]
_SPELLINGS = (
    TORCHVISION,
    [f"features.{i}" for i in (0, 2, 4, 5, 6, 9, 11)] + ["output"],  # Gluon's save_parameters
    [f"conv{i}" for i in range(5)] + [f"dense{i}" for i in range(3)],  # Gluon's export
)
_OURS = "conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "fc3"
# Stride and padding of each convolution, and whether a max pooling (3x3, stride 2) follows it.
_CONVOLUTIONS = (4, 2, True), (1, 2, True), (1, 1, False), (1, 1, False), (1, 1, True)


def read(path: str) -> Dict[str, np.ndarray]:
    """The weights in a .pth, .pth.tar, .safetensors or Gluon .params file, by our names.

    They are the float32 arrays of the eight layers. UserError if the file is damaged, or holds no
    AlexNet of the two zoos; OSError if it cannot be read.
    """
    readers = {".safetensors": _safetensors, ".params": _params}
    found = readers.get(os.path.splitext(path)[1], torch_file.read)(path)
    arrays = {_plain(name): array for name, array in found.items()}
    layers = next((one for one in _SPELLINGS if f"{one[-1]}.bias" in arrays), _SPELLINGS[0])
    expected = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    other = sorted(arrays.keys() ^ set(expected))
    if other:
        where = "has" if other[0] in arrays else "lacks"
        remedy = ""
        if path.endswith(".params"):
            remedy = "; python -m common.adopt takes other checkpoints of MXNet"
        raise UserError(
            f"{path}: {where} {other[0]}; torchvision's AlexNet has features.0.weight to"
            f" classifier.6.bias; Gluon's has as many arrays{remedy}"
        )
    ours = (f"{layer}_{kind}" for layer in _OURS for kind in ("weight", "bias"))
    return {name: np.float32(arrays[key]) for name, key in zip(ours, expected)}


def _plain(name):
    """Without what says nothing: DataParallel's ``module.``, MXNet's ``arg:``, ``alexnet0_``."""
    return (
        re.sub(r"module\.|^arg:|alexnet\d+_", "", name)
        .replace("_weight", ".weight")
        .replace("_bias", ".bias")
    )


def _safetensors(path):
    import safetensors.numpy

    with open(path, "rb") as file:  # of a missing one, the library's error has no name
        content = file.read()
    try:
        return safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, TypeError):  # bfloat16 is no type of numpy's
        raise UserError(f"{path}: is damaged, or has numbers of a type that numpy does not have")


def _params(path):
    try:
        array_names(path)
    except (ValueError, KeyError, struct.error):
        raise UserError(f"{path}: is damaged, or is no file of named arrays")
    return {name: array.asnumpy() for name, array in mx.nd.load(path).items()}


def check_shapes(path: str, weights: Dict[str, np.ndarray], symbol: mx.sym.Symbol) -> None:
    """UserError if ``weights`` are not of the shapes of ``symbol`` on images of IMAGE_SHAPE."""
    shapes = Graph(symbol).shapes(data=(1, *IMAGE_SHAPE))
    for name, array in weights.items():
        if array.shape != shapes[name]:
            raise UserError(
                f"{path}: {name} would be of {compare.by(array.shape)}, where {NETWORK} has"
                f" {compare.by(shapes[name])}; it is another network"
            )


def to_gluon(arg_params: Dict[str, mx.nd.NDArray]) -> Dict[str, mx.nd.NDArray]:
    """The weights of ``alexnet_owt`` by the names of Gluon's ``save_parameters``."""
    return {
        f"{gluons}.{kind}": arg_params[f"{ours}_{kind}"]
        for ours, gluons in zip(_OURS, _SPELLINGS[1])
        for kind in ("weight", "bias")
    }


def probabilities_of_gluon(path: str, classes: int, images: np.ndarray) -> np.ndarray:
    """What Gluon's network with the weights in ``path`` computes from images (N, 3, H, W)."""
    net = mx.gluon.model_zoo.vision.alexnet(classes=classes)
    net.load_parameters(path)
    return mx.nd.softmax(net(mx.nd.array(images))).asnumpy()


def difference(path: str, weights: Dict[str, np.ndarray], symbol: mx.sym.Symbol) -> float:
    """How far MXNet and numpy differ in a probability, on two pictures; UserError if too far."""
    images = compare.pictures(*IMAGE_SHAPE)[[0, -1]]
    images = (images - np.float32(MEAN)[:, None, None]) / np.float32(STD)[:, None, None]
    arrays = {name: mx.nd.array(array) for name, array in weights.items()}
    said = compare.probabilities(symbol, arrays, {}, images)
    return compare.difference(f"{path} in MXNet", said, _probabilities(weights, images))


def _probabilities(weights, images):
    """What torchvision's layers compute from ``images`` (N, 3, 224, 224), in float64."""
    layers = [[weights[f"{n}_{kind}"] for kind in ("weight", "bias")] for n in _OURS]
    maps = images.astype(np.float64)
    for (weight, bias), (stride, pad, pooled) in zip(layers, _CONVOLUTIONS):
        maps = np.pad(maps, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
        windows = _windows(maps, weight.shape[2], stride)
        sums = np.tensordot(windows, weight.astype(np.float64), ((1, 4, 5), (1, 2, 3))) + bias
        maps = np.maximum(sums.transpose(0, 3, 1, 2), 0)
        if pooled:
            maps = _windows(maps, 3, 2).max((4, 5))
    values = maps.reshape(len(maps), -1)
    for weight, bias in layers[5:]:
        values = np.maximum(values, 0) @ weight.astype(np.float64).T + bias
    shares = np.exp(values - values.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def _windows(maps, side, stride):
    """(N, C, H, W) -> (N, C, rows, columns, side, side)."""
    return sliding_window_view(maps, (side, side), (2, 3))[:, :, ::stride, ::stride]
