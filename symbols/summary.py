"""The layer table: parameters, memory and arithmetic of each layer, beside the article's counts."""

import json
import math
from typing import Dict, Iterable, Iterator, List, NamedTuple, Tuple

from common.runtime.mxnet import mx

PER_KIB = 1024 / 4  # float32 numbers

# The article's table: layer -> row, neurons, weights without biases.
ARTICLE = {
    "conv1": ("C1", 290_400, 34_848),
    "conv2": ("C2", 186_624, 307_200),
    "conv3": ("C3", 64_896, 884_736),
    "conv4": ("C4", 64_896, 663_552),
    "conv5": ("C5", 43_264, 442_368),
    "fc1": ("R1", 4_096, 37_748_736),
    "fc2": ("R2", 4_096, 16_777_216),
    "fc3": ("R3", 1_000, 4_096_000),
}
ARTICLE_MAPS = 96  # of conv1; alexnet_owt, which has 64, is another network
# The total of weights that the article prints; its rows add up to 60,954,656.
ARTICLE_PRINTED_WEIGHTS = 60_924_656

_WEIGHTS, _BIASES = ("_weight",), ("_bias", "_gamma", "_beta", "_slope")  # ends of names
_RESIZING = "Convolution", "Pooling"


class Layer(NamedTuple):
    """One operator of the graph, for one image."""

    name: str
    op: str
    output: Tuple[int, ...]  # shape without the batch
    neurons: int  # outputs, if the layer has weights
    weights: int
    biases: int  # with all that is trained beside weights: scales, shifts and slopes
    multiply_adds: int  # of the weights, in a forward pass


def layers(symbol: mx.sym.Symbol, image_shape: Tuple[int, int, int]) -> List[Layer]:
    """The operators of ``symbol`` on images of (channels, height, width), in order."""
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape_partial(data=(1, *image_shape))
    shape_of = dict(zip(internals.list_outputs(), shapes))
    nodes = json.loads(symbol.tojson())["nodes"]
    return [
        _layer(node, [nodes[source]["name"] for source, *_ in node["inputs"]], shape_of)
        for node in nodes
        if node["op"] != "null"
    ]


def _layer(node, inputs, shape_of):
    weights, biases = (
        sum(math.prod(shape_of[name]) for name in inputs if name.endswith(ends))
        for ends in (_WEIGHTS, _BIASES)
    )
    output = shape_of.get(f"{node['name']}_output") or shape_of[f"{node['name']}_output0"]
    output = output[1:]  # of SliceChannel the first of two, which are alike
    neurons = math.prod(output) if weights else 0
    # Each position of the output map uses every weight once.
    multiply_adds = weights * math.prod(output[1:])
    return Layer(node["name"], node["op"], output, neurons, weights, biases, multiply_adds)


def report(network: str, symbol: mx.sym.Symbol, image_shape: Tuple[int, int, int]) -> str:
    """The layer table as text of 100 columns; for AlexNet with the article's counts beside it."""
    listed = layers(symbol, image_shape)
    parameters = sum(layer.weights + layer.biases for layer in listed)
    lines = [
        f"{network} on an image of {_by(image_shape)}: {parameters:,} parameters",
        "",
        *_table(listed),
        "",
        "neurons: outputs of the layers with weights; multiply-adds: theirs, forward, one image;",
        "KiB out: the layer's output in float32, one image; KiB held: its weights and biases.",
    ]
    by_name = {layer.name: layer for layer in listed}
    if ARTICLE.keys() <= by_name.keys() and by_name["conv1"].output[0] == ARTICLE_MAPS:
        lines += ["", *_comparison(by_name), "", *_notes(by_name, image_shape)]
    return "\n".join(lines)


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def _table(listed: List[Layer]) -> List[str]:
    columns = "{:13} {:14} {:>9} {:>8} {:>11} {:>6} {:>13} {:>8} {:>9}".format
    rule = "-" * 99
    counts = "neurons", "weights", "biases", "multiply-adds", "KiB out", "KiB held"
    lines = [columns("layer", "operator", "output", *counts), rule]
    for layer in listed:
        lines.append(columns(layer.name, layer.op, _by(layer.output), *_figures([layer])).rstrip())
    return [*lines, rule, columns("total", "", "", *_figures(listed))]


def _figures(layers: List[Layer]) -> List[str]:
    """The sums over some layers as text, empty for zero."""
    counts = [(one.neurons, one.weights, one.biases, one.multiply_adds) for one in layers]
    sizes = [(math.prod(one.output), one.weights + one.biases) for one in layers]
    return [f"{total:,}" if total else "" for total in map(sum, zip(*counts))] + [
        f"{total / PER_KIB:,.1f}" if total else "" for total in map(sum, zip(*sizes))
    ]


def _comparison(by_name: Dict[str, Layer]) -> List[str]:
    """The article's counts beside those of this symbol; * marks a difference."""
    rows = [
        (row, name, by_name[name].neurons, neurons, by_name[name].weights, weights)
        for name, (row, neurons, weights) in ARTICLE.items()
    ]
    total = ("total", "", *(sum(column) for column in list(zip(*rows))[2:]))
    head = f"{'':16} {'neurons':>12} {'the article':>12}   {'weights':>14} {'the article':>12}"
    rule = "-" * len(head)
    return [head, rule, *(_compared(*row) for row in rows), rule, _compared(*total)]


def _compared(row, name, neurons, article_neurons, weights, article_weights):
    marks = ["* "[a == b] for a, b in ((neurons, article_neurons), (weights, article_weights))]
    return (
        f"{row:6} {name:9} {neurons:12,} {article_neurons:12,} {marks[0]} {weights:14,}"
        f" {article_weights:12,} {marks[1]}"
    ).rstrip()


def _notes(by_name: Dict[str, Layer], image_shape: Tuple[int, int, int]) -> Iterator[str]:
    """A line for each reason why counts differ from the article's, and one about its total."""
    channels, *sides = image_shape
    if any(by_name[name].weights != ARTICLE[name][2] for name in ("conv2", "conv4", "conv5")):
        yield "* C2, C4, C5: the article counts alexnet2012, where they read half of the channels."
    if any(by_name[name].neurons != ARTICLE[name][1] for name in list(ARTICLE)[:5]):
        maps = [layer.output[1:] for layer in by_name.values() if layer.op in _RESIZING]
        sizes = [_by(size) for i, size in enumerate(maps) if size != maps[i - 1]]
        yield f"* The article's input is 227x227; on {_by(sides)} the maps are {', '.join(sizes)}."
    if channels != 3:
        yield "* C1: the article's images have 3 channels."
    if by_name["fc3"].output != (1000,):
        yield "* R3: the article's network has 1000 classes."
    rows = sum(weights for _, _, weights in ARTICLE.values())
    printed = ARTICLE_PRINTED_WEIGHTS
    yield f"The article prints {printed:,}, {rows - printed:,} short of the sum of its own rows."
