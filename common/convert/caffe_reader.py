"""A Caffe network: OpenCV reads the prototxt and the caffemodel.

Of the prototxt's text, only what OpenCV does not tell is read here: the size of the images, and
the settings of LRN. (protobuf's text_format would need all of Caffe's message definitions.)
"""

import re
from typing import Dict, List

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


def read(prototxt: str, caffemodel: str) -> SourceNetwork:
    """The network of a deploy.prototxt and its caffemodel.

    Raises:
        UserError: a file is damaged, or has what OpenCV cannot read or check.
        OSError: a file is missing.
    """
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        raise UserError(
            f"OpenCV {cv2.__version__}: reads no Caffe models, as 4 does; pip install"
            " 'opencv-python-headless<5'"
        )
    text = _text(prototxt)
    open(caffemodel, "rb").close()  # OpenCV does not say that it is missing
    net = _open(
        f"{caffemodel}: OpenCV cannot read it with {prototxt}; it may be cut, damaged or no"
        " caffemodel",
        prototxt,
        caffemodel,
    )
    image_shape = _image_shape(prototxt, text)
    lrn = _lrn_settings(prototxt, text)
    layers = layers_of(net, caffemodel)
    poolings = ["full"] * len(layers)  # Caffe rounds map sizes up
    return SourceNetwork((prototxt, caffemodel), image_shape, net, layers, lrn, poolings)


def _text(path):
    """The prototxt without its comments."""
    message = f"{path}: is not a prototxt, or is cut"
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except UnicodeDecodeError:
        raise UserError(message)
    _open(message, path)
    return re.sub(r"#.*", "", text)


def _open(message, *files):
    try:
        return cv2.dnn.readNetFromCaffe(*files)
    except cv2.error:
        raise UserError(message)


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
