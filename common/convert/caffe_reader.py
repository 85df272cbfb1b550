"""A Caffe network: OpenCV reads the prototxt and the caffemodel.

Of the prototxt's text, only what OpenCV does not tell is read here: the size of the images, and
the settings of LRN. (protobuf's text_format would need all of Caffe's message definitions.)
"""

import re
from typing import Dict, Iterator, List, Tuple, Union
from zipfile import BadZipFile

import numpy as np

from common.cli import UserError
from common.io.opencv import cv2

from .alexnet_import import SourceNetwork, layers_of

# Caffe's name of an LRN setting -> MXNet's, and Caffe's default.
_LRN = {
    "local_size": ("nsize", 5),
    "alpha": ("alpha", 1),
    "beta": ("beta", 0.75),
    "k": ("knorm", 1),
}
_LAYER = re.compile(r"\blayers?\s*:?\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}")
_ONLY_IN_TRAINING = re.compile(r"\btype\s*:\s*[\"']?\w*(DATA|ACCURACY)\b", re.IGNORECASE)
_LOSS = re.compile(r"\b(type\s*:\s*)([\"']?)(?:SoftmaxWithLoss|SOFTMAX_LOSS)\b")


def read(*files: str) -> SourceNetwork:
    """The network of a deploy.prototxt or train_val.prototxt, and its caffemodel, in any order.

    UserError if one is damaged, or has what OpenCV cannot read or check; OSError if one is missing.
    """
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise UserError(
            f"OpenCV {cv2.__version__}: reads no Caffe models, as 4 does; pip install"
            " 'opencv-python-headless<5'"
        )
    prototxt, caffemodel = sorted(files, key=_is_binary)
    text = _text(prototxt)
    with open(caffemodel, "rb") as file:
        weights = file.read()
    if weights.startswith(b"\x89HDF"):
        raise UserError(f"{caffemodel}: is HDF5, which OpenCV cannot read; save it with net.save")
    net = _open(
        f"{caffemodel}: OpenCV cannot read it with {prototxt}; it may be cut, damaged or no"
        " caffemodel",
        text.encode(),
        weights,
    )
    image_shape = _image_shape(prototxt, text)
    lrn = _lrn_settings(prototxt, text)
    layers = layers_of(net, caffemodel)
    _check_order(net, prototxt, caffemodel, weights)
    poolings = ["full"] * len(layers)  # Caffe rounds map sizes up
    return SourceNetwork((prototxt, caffemodel), image_shape, net, layers, lrn, poolings)


def _is_binary(path):
    with open(path, "rb") as file:
        return path.endswith(".caffemodel") or b"\0" in file.read(2**16)


def _text(path):
    """The prototxt for inference, without its comments, which may be in any encoding."""
    message = f"{path}: is not a prototxt, or is cut"
    with open(path, "rb") as file:
        content = re.sub(rb'("[^"\n]*")|#.*', rb"\1", file.read())
    try:
        text = _for_inference(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(message)
    _open(message, text.encode())
    return text


def _for_inference(text):
    """A train_val.prototxt as deploy.prototxt has it; other text as it is."""
    crop = re.search(r"\bcrop_size\s*:\s*(\d+)", text)
    if not crop:
        return text
    sizes = "".join(f"input_dim: {size} " for size in (1, 3, crop[1], crop[1]))
    return f'input: "data" {sizes}\n' + _LAYER.sub(_layer_for_inference, text)


def _layer_for_inference(found):
    layer = found.group()
    if _ONLY_IN_TRAINING.search(layer):
        return ""
    if not _LOSS.search(layer):
        return layer
    softmax = "SOFTMAX" if layer.startswith("layers") else "Softmax"
    scores, _, labels = layer.partition("bottom")
    labels = re.sub(r"\bbottom\s*:\s*[\"'][^\"']*[\"']", "", labels)
    return _LOSS.sub(rf"\1\2{softmax}", f"{scores}bottom{labels}")


def _open(message, *contents):
    try:
        return cv2.dnn.readNetFromCaffe(*(np.frombuffer(one, np.uint8) for one in contents))
    except cv2.error:
        raise UserError(message)


def _check_order(net, prototxt, caffemodel, weights):
    """A caffemodel has the layers of its own network, in order; OpenCV reads only their weights.

    CaffeNet's weights have the same names and shapes, but it pools before each LRN.
    """
    try:
        layers = [dict(_fields(value)) for number, value in _fields(weights) if number in (2, 100)]
    except (LookupError, TypeError):
        raise UserError(f"{caffemodel}: is damaged")
    listed = [layer.get(1) or layer.get(4) for layer in layers]  # names, of 2014's and 2013's form
    shared = [name for name in net.getLayerNames() if name.encode() in listed]
    for name, other in zip(shared, sorted(shared, key=lambda name: listed.index(name.encode()))):
        if name != other:
            raise UserError(f"{caffemodel}: has {other} where {prototxt} has {name}")


def _fields(content: bytes) -> Iterator[Tuple[int, Union[int, memoryview]]]:
    """The number and value of each field of a protobuf message."""
    content, at = memoryview(content), 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte, at = content[at], at + 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(content):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        yield number, content[at : at + size]
        at += size


def mean_of_file(path: str) -> np.ndarray:
    """The mean of each channel, in the file's order, of a mean.binaryproto or a .npy file.

    UserError if it holds something else than (C, H, W) or (C,) numbers; OSError if it is missing.
    """
    try:
        if path.endswith(".npy"):
            mean = np.load(path)
        else:
            with open(path, "rb") as file:
                blob = dict(_fields(file.read()))
            mean = np.frombuffer(blob[5], "<f4").reshape(blob[2], blob[3], blob[4])
        if len(mean) > 3 or not np.isfinite(mean).all():
            raise ValueError(path)
        mean = mean.reshape(len(mean), -1).mean(axis=1, dtype=np.float64)
    except (ValueError, LookupError, TypeError, EOFError, OverflowError, MemoryError, BadZipFile):
        raise UserError(
            f"--mean {path}: is no mean.binaryproto or .npy of (channels, height, width)"
        )
    return mean


def _image_shape(path, text):
    """(C, H, W): Caffe has had three ways to write N, C, H, W, all with a number after 'dim:'."""
    sizes = [int(size) for size in re.findall(r"\b(?:input_)?dim\s*:\s*(\d+)", text)]
    if len(sizes) != 4:
        raise UserError(f"{path}: is no Caffe network for inference; give deploy.prototxt")
    return tuple(sizes[1:])


def _lrn_settings(path, text) -> List[Dict[str, float]]:
    """The settings of each LRN layer, in MXNet's terms."""
    found = []
    for layer in re.split(r"\blayers?\s*:?\s*\{", text):
        if not re.search(r"\btype\s*:\s*[\"']?LRN\b", layer):
            continue
        said = dict(re.findall(r"\b(local_size|alpha|beta|k)\s*:\s*([\d.eE+-]+)", layer))
        try:
            settings = {
                ours: float(said.get(key, default)) for key, (ours, default) in _LRN.items()
            }
        except ValueError:
            raise UserError(f"{path}: has a setting of LRN that is no number")
        if settings["knorm"] != 1:
            raise UserError(
                f"{path}: has an LRN with k {settings['knorm']:g}, not 1; OpenCV ignores k in"
                " Caffe's files, so the network cannot be checked"
            )
        found.append(settings)
    return found
