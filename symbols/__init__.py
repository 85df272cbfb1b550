"""The networks, one per file, under the names that ``--network`` takes.

AlexNet: A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional
Neural Networks", NIPS 2012. "The article" is "CNN网络结构-AlexNet" (cnblogs, qw12, 8470730), a
listing of it for MXNet's Symbol API.

"One weird trick for parallelizing convolutional neural networks", A. Krizhevsky, arXiv 1404.5997,
2014, is the source of alexnet_owt.

LeNet-5: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document
Recognition", Proceedings of the IEEE 86(11), 1998, section II.B.

How their numbers are checked: tests/golden/alexnet-graph.json is the article's graph node by node.
tests/symbols/test_symbols.py compares layer tables (``python -m symbols NETWORK``) with the
article's counts and LeCun's. tests/graph/test_gradients.py compares outputs and gradients with an
implementation in numpy.
"""

import argparse
from typing import Callable, Dict, Optional, Tuple

from common.runtime.mxnet import mx

from . import alexnet, alexnet145, alexnet2012, alexnet_owt, caffenet, lenet, own

NETWORKS: Dict[str, Callable[..., mx.sym.Symbol]] = {
    "alexnet": alexnet.get_symbol,
    "alexnet2012": alexnet2012.get_symbol,
    "alexnet145": alexnet145.get_symbol,
    "alexnet_owt": alexnet_owt.get_symbol,
    "caffenet": caffenet.get_symbol,
    "lenet": lenet.get_symbol,
}
# The input that each was designed for: (channels, height, width). Others take that of alexnet.
IMAGE_SHAPES = {
    "alexnet": (3, 227, 227),
    "alexnet2012": (3, 227, 227),
    "alexnet145": (3, 224, 224),
    "alexnet_owt": (3, 224, 224),
    "caffenet": (3, 227, 227),
    "lenet": (1, 32, 32),
}


def known(network: str) -> str:
    """An argparse type: a key of :data:`NETWORKS`, or a file of the user's in symbols/."""
    try:
        _check_name(network)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error))
    return network


def _check_name(network):
    names = dict.fromkeys([*NETWORKS, *own.names()])
    if network not in names:
        raise ValueError(
            f"'{network}' is unknown; choose from {', '.join(names)}, or write symbols/{network}.py"
        )


def designed_for(network: str) -> Tuple[int, int, int]:
    """The network's own (channels, height, width)."""
    return IMAGE_SHAPES.get(network, IMAGE_SHAPES["alexnet"])


def get_symbol(network: str, num_classes: Optional[int] = None, **options) -> mx.sym.Symbol:
    """Build ``network`` with options of its own, or a file of the user's.

    ``num_classes`` defaults to the number that it was designed for. ValueError if it is unknown or
    has no such option, or the user's file cannot be used.
    """
    _check_name(network)
    if num_classes is not None:
        options["num_classes"] = num_classes
    if network not in NETWORKS:
        return own.build(network, **options)
    return NETWORKS[network](**options)


def check_image_shape(symbol: mx.sym.Symbol, image_shape: Tuple[int, int, int]) -> None:
    """Raise ValueError if images of (channels, height, width) are too small for the network."""
    channels, height, width = image_shape
    if not _fits(symbol, image_shape):
        sides = range(1, 1025)
        smallest = next((n for n in sides if _fits(symbol, (channels, n, n))), "above 1024")
        raise ValueError(
            f"{channels},{height},{width}: too small for this network"
            f" (the smallest is {channels},{smallest},{smallest})"
        )


def check_outputs(
    symbol: mx.sym.Symbol, image_shape: Tuple[int, int, int], num_classes: int
) -> None:
    """Raise ValueError unless the network makes ``num_classes`` probabilities of an image alone.

    Images of another size than it takes are :func:`check_image_shape`'s to refuse.
    """
    try:
        shapes, outputs, _ = symbol.infer_shape_partial(data=(1, *image_shape))
    except mx.MXNetError:
        return
    unknown = [name for name, shape in zip(symbol.list_arguments(), shapes) if not shape]
    if unknown:
        raise ValueError(f"the network needs {unknown[0]} besides data, the images")
    if outputs != [(1, num_classes)]:
        size = "x".join(map(str, outputs[0][1:]))
        raise ValueError(f"the network has {size} outputs, and the data {num_classes} classes")


def _fits(symbol, image_shape):
    try:  # infer_shape would print its arguments for every size that does not fit
        _, shapes, _ = symbol.get_internals().infer_shape_partial(data=(1, *image_shape))
    except mx.MXNetError:
        return False
    return all(shape and min(shape) > 0 for shape in shapes)
