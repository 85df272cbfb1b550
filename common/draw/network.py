"""A network's diagram, drawn from its symbol: the form of the paper's figure 2."""

import ast
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from common.graph.graph import Graph, Node
from common.runtime.mxnet import mx

from .style import COLOURS, FAINT, INK, new_figure, styled

_PITCH = 1.18  # inches from one volume to the next
_APART = 1.55  # inches between the middles of two columns
_SLANT = 0.42, 0.3  # where a volume's far edge lies, as shares of its side
_MAP = 0.085  # inches of a map's side for the root of each pixel
_DEPTH = 0.028  # inches of a volume's depth for the root of each channel
_BAR = 1.0  # inches: the height of a fully connected layer


class Volume(NamedTuple):
    """What a layer with weights gives out, or the image."""

    name: str
    shape: Tuple[int, ...]  # (channels, height, width), or (units,)
    lines: List[str]  # what is told of it
    halves: bool  # each column reads its own half alone


@styled
def diagram(symbol: mx.sym.Symbol, image_shape: Tuple[int, int, int], title: str) -> Any:
    """A matplotlib figure of the network: its volumes, kernels and columns, from left to right.

    Networks with a layer in two groups have two columns, as on the paper's two GPUs: a layer whose
    columns read both halves has crossed arrows. ``image_shape`` is (channels, height, width).
    """
    drawn = volumes(symbol, image_shape)
    columns = 2 if any(volume.halves for volume in drawn) else 1
    lines = max(len(volume.lines) for volume in drawn)
    reach = 0.5 * _APART + 0.6 if columns == 2 else 0.95
    low, top = -reach - 0.1, reach + 0.5
    bottom = low - 0.165 * (lines + 1)
    width = _PITCH * len(drawn)
    figure = new_figure(width, top - bottom)
    axes = figure.subplots()
    axes.set(xlim=(0, width), ylim=(bottom, top), aspect="equal")
    axes.set_axis_off()
    axes.text(0.05, top - 0.05, title, va="top", fontsize=11, weight="bold")
    places: List[List[Tuple[float, float, float]]] = []
    for i, volume in enumerate(drawn):
        single = columns == 1 or i in (0, len(drawn) - 1)
        middles = [0.0] if single else [0.5 * _APART, -0.5 * _APART]
        places.append([_draw(axes, volume, _PITCH * i + 0.12, y, len(middles)) for y in middles])
        if i:
            _arrows(axes, places[-2], places[-1], volume.halves)
        text = "\n".join(volume.lines)
        axes.text(_PITCH * i + 0.08, low, volume.name, va="top", weight="bold", fontsize=9)
        axes.text(_PITCH * i + 0.08, low - 0.19, text, va="top", fontsize=7.5, linespacing=1.35)
    return figure


def volumes(symbol: mx.sym.Symbol, image_shape: Tuple[int, int, int]) -> List[Volume]:
    """The image, and what each layer with weights gives out, in order."""
    graph = Graph(symbol)
    shapes = graph.shapes(data=(1, *image_shape))
    found = [Volume("image", tuple(image_shape), [], False)]
    for node in graph.nodes:
        shape = shapes.get(f"{node.name}_output", (1,))[1:]
        if node.op in ("Convolution", "FullyConnected"):
            halves = node.attrs.get("num_group", "1") != "1"
            lines = _kernels(node) if node.op == "Convolution" else ["fully connected"]
            found.append(Volume(node.name, shape, lines, halves))
        elif node.op in _TOLD:
            told = _TOLD[node.op](node, shape)
            if told[0] not in found[-1].lines:  # each column's operator is told once
                found[-1].lines.extend(told)
    return found


def _kernels(node):
    attrs = node.attrs
    size = "x".join(map(str, _pair(attrs["kernel"])))
    stride = _pair(attrs.get("stride", "(1, 1)"))[0]
    lines = [f"{attrs['num_filter']} kernels {size}"]
    return [*lines, f"stride {stride}"] if stride > 1 else lines


def _pooling(node, shape):
    size, stride = (_pair(node.attrs.get(key, "(1, 1)")) for key in ("kernel", "stride"))
    kind = f"{node.attrs.get('pool_type', 'max')} pool {size[0]}x{size[1]},"
    return [kind, f"  stride {stride[0]}, to {shape[-2]}x{shape[-1]}"]


def _pair(text):
    value = ast.literal_eval(text)
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


_ACTIVATIONS = {"relu": "ReLU", "softrelu": "soft ReLU"}
_TOLD: Dict[str, Callable[[Node, Tuple[int, ...]], List[str]]] = {  # operator -> lines
    "Activation": lambda node, _: [_ACTIVATIONS.get(*[node.attrs["act_type"]] * 2)],
    "LeakyReLU": lambda node, _: [node.attrs.get("act_type", "leaky")],
    "LRN": lambda node, _: ["LRN"],
    "BatchNorm": lambda node, _: ["batch norm"],
    "Dropout": lambda node, _: [f"dropout {float(node.attrs.get('p', 0.5)):g}"],
    "Pooling": _pooling,
    "SoftmaxOutput": lambda node, _: ["softmax"],
    "softmax": lambda node, _: ["softmax"],
}


def _draw(axes, volume, x, y, columns):
    """Draw one column of a volume, its left edge at x, its middle at y; (left, right, y)."""
    channels = volume.shape[0] // columns
    if len(volume.shape) == 1:
        height = _BAR if columns == 1 else 0.75
        height = height if volume.shape[0] > 100 else 0.6
        return _box(axes, x + 0.25, y, 0.13, height, 0.1, f"{channels}", COLOURS[2])
    side, depth = _MAP * volume.shape[1] ** 0.5, _DEPTH * channels**0.5
    colour = FAINT if volume.name == "image" else COLOURS[0]
    label = "x".join(map(str, (*volume.shape[1:], channels)))
    return _box(axes, x, y, depth, side, side, label, colour)


def _box(axes, x, y, depth, height, side, label, colour):
    """A box in oblique projection: depth to the right, its maps receding."""
    right, up = side * _SLANT[0], side * _SLANT[1]
    low, high, far = y - (height + up) / 2, y + (height - up) / 2, x + depth
    front = [(x, low), (far, low), (far, high), (x, high)]
    top = [(x, high), (far, high), (far + right, high + up), (x + right, high + up)]
    end = [(far, low), (far + right, low + up), (far + right, high + up), (far, high)]
    for corners, strength in ((front, 0.45), (top, 0.2), (end, 0.3)):
        xs, ys = zip(*corners)
        axes.fill(xs, ys, facecolor=colour, alpha=strength, linewidth=0)
        axes.fill(xs, ys, facecolor="none", edgecolor=colour, linewidth=0.8)
    middle = x + (depth + right) / 2
    axes.text(middle, high + up + 0.05, label, ha="center", va="bottom", fontsize=8)
    return x, far + right, y


def _arrows(axes, sources, targets, halves):
    """From each column to each that reads it."""
    straight = halves or len(sources) != len(targets) or len(sources) == 1
    for i, (_, start, y) in enumerate(sources):
        for j, (end, _, target) in enumerate(targets):
            if halves and i != j:
                continue
            colour = INK if straight or i == j else COLOURS[1]
            style = {"arrowstyle": "-|>", "color": colour, "linewidth": 0.9, "mutation_scale": 8}
            axes.annotate("", (end - 0.03, target), (start + 0.03, y), arrowprops=style)
