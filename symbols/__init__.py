"""The networks, one a file, by the name that ``--network`` takes."""

from typing import Optional, Tuple

from common.runtime.mxnet import mx
from symbols import alexnet, alexnet2012, lenet

NETWORKS = {
    "alexnet": alexnet.get_symbol,
    "alexnet2012": alexnet2012.get_symbol,
    "lenet": lenet.get_symbol,
}
# The input each was designed for: channels, height, width.
IMAGE_SHAPES = {"alexnet": (3, 227, 227), "alexnet2012": (3, 227, 227), "lenet": (1, 32, 32)}

_LARGEST_TRIED = 1024  # pixels


def get_symbol(network: str, num_classes: Optional[int] = None, **options) -> mx.sym.Symbol:
    """Build ``network``; without ``num_classes`` it has as many as it was designed for.

    Args:
        network: a key of :data:`NETWORKS`.
        options: of the network's own ``get_symbol``.

    Raises:
        ValueError: there is no such network.
    """
    if network not in NETWORKS:
        raise ValueError(f"network {network!r} is unknown; choose from {', '.join(NETWORKS)}")
    if num_classes is not None:
        options["num_classes"] = num_classes
    return NETWORKS[network](**options)


def check_image_shape(symbol: mx.sym.Symbol, image_shape: Tuple[int, int, int]) -> None:
    """Refuse images, (channels, height, width), that are too small for the network.

    Raises:
        ValueError: a layer's output would be empty; it names the smallest square that fits.
    """
    if _fits(symbol, image_shape):
        return
    channels, height, width = image_shape
    smallest = smallest_image(symbol, channels)
    raise ValueError(
        f"{channels},{height},{width}: too small for this network"
        f" (the smallest is {channels},{smallest},{smallest})"
    )


def smallest_image(symbol: mx.sym.Symbol, channels: int = 3) -> int:
    """The side in pixels of the smallest square image that the network accepts."""
    for side in range(1, _LARGEST_TRIED + 1):
        if _fits(symbol, (channels, side, side)):
            return side
    raise ValueError(f"the network accepts no square image of up to {_LARGEST_TRIED} pixels")


def _fits(symbol, image_shape):
    try:  # infer_shape would print its arguments for each size that does not fit
        _, shapes, _ = symbol.get_internals().infer_shape_partial(data=(1, *image_shape))
    except mx.MXNetError:
        return False
    return all(shape and min(shape) > 0 for shape in shapes)
