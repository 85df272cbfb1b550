"""A Caffe network: its prototxt, read here, and its caffemodel, which OpenCV reads and runs."""

import functools
import re
from typing import List

import numpy as np

from common.cli import UserError
from common.io.log import quiet
from common.io.opencv import cv2

from .alexnet_import import NETWORK, Layer, number, translate

# Protobuf's text format: a comment, a string, a word or number, a mark; commas mean nothing.
_TOKEN = re.compile(r"""\#.*|"[^"\n]*"|'[^'\n]*'|[\w.+-]+|[^\s,;]""")

# Type of layer -> message of its parameters, MXNet's operator, what is always so of it in MXNet's
# terms, and its parameters: MXNet's name, Caffe's default.
_WINDOW = {"kernel_size": ("kernel", None), "stride": ("stride", 1), "pad": ("pad", 0)}
_TYPES = {
    "Convolution": (
        "convolution_param",
        "Convolution",
        {},
        {
            **_WINDOW,
            "num_output": ("num_filter", None),
            "group": ("num_group", 1),
            "dilation": ("dilate", 1),
        },
    ),
    "ReLU": ("relu_param", "Activation", {"act_type": "relu"}, {}),
    "LRN": (
        "lrn_param",
        "LRN",
        {},
        {
            "local_size": ("nsize", 5),
            "alpha": ("alpha", 1),
            "beta": ("beta", 0.75),
            "k": ("knorm", 1),
        },
    ),
    "Pooling": (
        "pooling_param",
        "Pooling",
        {"pooling_convention": "full"},  # Caffe rounds map sizes up
        {**_WINDOW, "pool": ("pool_type", "max")},
    ),
    "InnerProduct": (
        "inner_product_param",
        "FullyConnected",
        {},
        {"num_output": ("num_hidden", None)},
    ),
    "Softmax": ("softmax_param", "SoftmaxOutput", {}, {}),
    "Dropout": ("dropout_param", "Dropout", {}, {"dropout_ratio": ("p", 0.5)}),
}
_SQUARE = "kernel_size", "stride", "pad", "dilation"  # one number for both sides
_TRAINING = "weight_filler", "bias_filler", "engine"  # parameters that inference has no use for
_HARMLESS = {  # defaults of other parameters
    ("bias_term", "true"), ("axis", 1), ("transpose", "false"), ("negative_slope", 0),
    ("norm_region", "across_channels"), ("global_pooling", "false"), ("round_mode", "ceil"),
}  # fmt: skip


class Model:
    """A deploy.prototxt and its caffemodel; see ``import_network``."""

    def __init__(self, prototxt: str, caffemodel: str):
        """Read the layers; the weights are read when they are asked for.

        Raises:
            UserError: the prototxt is damaged, or has what no chain of AlexNet's layers has.
            OSError: a file is missing.
        """
        if not hasattr(cv2.dnn, "readNetFromCaffe"):
            raise UserError(
                f"OpenCV {cv2.__version__}: reads no Caffe models, as 4 does; pip install"
                " 'opencv-python-headless<5'"
            )
        # Its absence is told best before the rest is looked at.
        open(caffemodel, "rb").close()
        self.files = [prototxt, caffemodel]
        text = _read(prototxt)
        described = text.get("layer") or text.get("layers") or []
        try:
            self.image_shape = _image_shape(text, described)
            self.layers = _chain(prototxt, described)
        except (ValueError, TypeError, LookupError, AttributeError):
            raise UserError(f"{prototxt}: is no Caffe network for inference; give deploy.prototxt")

    def weights(self, layer: Layer) -> List[np.ndarray]:
        """A layer's weight and bias.

        Raises:
            UserError: the caffemodel cannot be read, or has none that fit the layer.
        """
        try:
            return [self.network.getParam(layer.name, i) for i in (0, 1)]
        except cv2.error:
            raise UserError(
                f"{self.files[1]}: has no weights of layer {layer.name}, or others than"
                f" {self.files[0]} says"
            )

    @functools.cached_property
    def network(self) -> cv2.dnn.Net:
        """OpenCV's reading of both files.

        Raises:
            UserError: it cannot.
        """
        try:
            with quiet():  # its protobuf prints an error, beside raising it
                return cv2.dnn.readNetFromCaffe(*self.files)
        except cv2.error:
            raise UserError(
                f"{self.files[1]}: OpenCV cannot read it with {self.files[0]}; it may be cut,"
                " damaged or no caffemodel"
            )


def _read(path):
    """A file of text-format protobuf: name -> list of values, strings or such dictionaries."""
    try:
        with open(path, encoding="utf-8") as file:
            tokens = _TOKEN.findall(file.read())
        return _message(token for token in tokens if token[0] != "#")
    except (ValueError, StopIteration, RecursionError):
        raise UserError(f"{path}: is not a prototxt, or is cut")


def _message(tokens, end=None):
    fields = {}
    for name in tokens:
        if name == end:
            return fields
        mark = next(tokens)
        value = next(tokens) if mark == ":" else mark
        if not name.isidentifier() or (mark != ":" and value != "{") or value in ("}", ":"):
            raise ValueError(name)
        value = _message(tokens, "}") if value == "{" else value.strip("\"'")
        fields.setdefault(name, []).append(value)
    if end:
        raise ValueError("ends inside a message")
    return fields


def _image_shape(text, described):
    """(C, H, W), which Caffe has had three ways to say."""
    sizes = text.get("input_dim")
    if "input_shape" in text:
        sizes = text["input_shape"][0]["dim"]
    elif described[0]["type"] == ["Input"]:
        sizes = described[0]["input_param"][0]["shape"][0]["dim"]
    _, channels, height, width = map(int, sizes)
    return channels, height, width


def _chain(path, described):
    """The layers, each of which has to take what the one before it made."""
    layers = []
    before = None
    for fields in described:
        name = fields["name"][0]
        kind = _type(path, name, fields["type"][0])
        if before and fields["bottom"] != before:
            raise UserError(f"{path}: layer {name}: takes {fields['bottom']}, not {before} alone")
        before = fields["top"]
        if kind != "Input":
            layers.append(_layer(path, name, kind, fields))
    return [layer for layer in layers if layer.op != "Dropout"]


def _type(path, name, said):
    """The type of a layer; files of 2013 say INNER_PRODUCT."""
    plain = said.replace("_", "").lower()
    for kind in ("Input", *_TYPES):
        if kind.lower() == plain:
            return kind
    raise UserError(f"{path}: layer {name} is {said}, which {NETWORK} has not")


def _layer(path, name, kind, fields):
    message, op, always, known = _TYPES[kind]
    (said,) = fields.get(message, [{}])
    given = {}
    for key, values in said.items():
        if key in _TRAINING:
            continue
        if len(set(values)) != 1:
            raise UserError(f"{path}: layer {name}: its {key} is {', '.join(values)}, not one")
        given[key] = _value(values[0])
    attrs = {**always, **translate(given, known, _HARMLESS)}
    for key in set(_SQUARE) & set(known):
        at, _ = known[key]
        attrs[at] = (attrs[at], attrs[at])
    return Layer(name, op, attrs)


def _value(text):
    try:
        return number(float(text))
    except ValueError:
        return text.lower()  # an enumeration
