"""Writing a network as the source of a PyTorch module, one line a layer, with its weights.

PyTorch runs in a process of its own to be compared: like MXNet, it brings an OpenMP along.
"""

import collections
import keyword
import pprint
import re
import subprocess
import sys
import tempfile
from typing import Dict, NamedTuple, Sequence

import numpy as np
import safetensors.numpy

from common.cli import UserError
from common.evaluate.network import class_names
from common.graph.graph import Graph
from common.input.preparation import Preparation
from common.runtime.mxnet import mx

from . import compare, torch_forms, zoo_import

_VARIABLES = "xyzuvw"
_ELSE = "export_onnx.py may have one"


class Source(NamedTuple):
    """What :func:`convert` makes of a graph."""

    layers: Sequence[str]  # lines of __init__
    forward: Sequence[str]  # lines of forward
    weights: Dict[str, np.ndarray]  # as in PyTorch's state_dict


def convert(
    symbol: mx.sym.Symbol, weights: Dict[str, mx.nd.NDArray], image_shape: Sequence[int]
) -> Source:
    """The network in PyTorch: prepared images (N, C, H, W) -> scores (N, classes).

    ``symbol`` is float32 and ends in a softmax; ``weights`` are arguments and auxiliary states.
    UserError if an operator, or one of its settings, has no form in PyTorch.
    """
    graph = Graph(compare.without_dropconnect(symbol))
    last = graph.outputs[0].node
    if last.op not in torch_forms.SOFTMAX or len(graph.outputs) > 1:
        raise UserError(f"the network does not end in a softmax, so has no form here; {_ELSE}")
    writer = _Writer(graph, weights, graph.shapes(data=(1, *image_shape)))
    for node in graph.nodes:
        try:
            if not node.is_variable:
                writer.add(node, node is last)
        except (ValueError, KeyError) as cause:
            raise UserError(
                f"{node.op} {node.name}: has no form in PyTorch here ({cause}); {_ELSE}"
            )
    return writer.source


class _Writer:
    """Writes one line of ``forward`` for each operator, in the graph's order."""

    def __init__(self, graph, weights, shapes):
        self._weights, self._shapes = weights, shapes
        self._keys = _torchvision_keys(graph, weights)
        self._reads = collections.Counter(one[:2] for one in graph.taken())
        data = {(node, 0): _VARIABLES[0] for node in graph.nodes if node.name == "data"}
        self._names = data  # (node, output) -> its variable
        folders = dict.fromkeys(key.partition(".")[0] for key in self._keys.values())
        self.source = Source([f"self.{folder} = nn.ModuleDict()" for folder in folders], [], {})

    def add(self, node, is_last):
        shapes = [self._shape(one) for one in node.inputs]
        form = torch_forms.find(node, shapes)
        inputs = [one[:2] for one in node.inputs[: len(node.inputs) - len(form.weights)]]
        if is_last:
            self.source.forward.append(f"return {self._variable(inputs[0])}")
            return
        if node.op in torch_forms.SOFTMAX:
            raise ValueError("it is not the last layer")
        key = self._keys.get(node) or _key(node)
        if form.layer:
            self.source.layers.append(f"{_place(key)} = {form.layer}")
            self._take_weights(key, form, node)
        read = [self._variable(one) for one in inputs]
        expression = form.expression.format(*read, layer=_place(key), all=", ".join(read))
        after = self._shapes.get(f"{node.name}_output", shapes[0])
        comment = f"  # {' x '.join(map(str, after[1:]))}" if after != shapes[0] else ""
        self.source.forward.append(f"{self._assigned(node, inputs)} = {expression}{comment}")

    def _shape(self, output):
        name = output.node.name
        if output.node.is_variable:
            return self._shapes[name]
        return self._shapes.get(f"{name}_output") or self._shapes[f"{name}_output{output.index}"]

    def _variable(self, output):
        if output not in self._names:
            raise ValueError(f"it reads {output[0].name}")
        return self._names[output]

    def _take_weights(self, key, form, node):
        for kind, one in zip(form.weights, node.inputs[1:]):
            if f"{key}.{kind}" in self.source.weights or one[:2] in self._names:
                raise ValueError(f"{one.node.name} is used twice")
            self.source.weights[f"{key}.{kind}"] = self._weights[one.node.name].asnumpy()
            self._names[one[:2]] = f"{_place(key)}.{kind}"

    def _assigned(self, node, inputs):
        """Variables for the outputs: the first that hold nothing which is still to be read."""
        self._reads.subtract(inputs)
        self._names = {one: name for one, name in self._names.items() if self._reads[one] > 0}
        free = [name for name in _VARIABLES if name not in self._names.values()]
        count = node.outputs if node.op == "SliceChannel" else 1  # the others' are hidden
        if count > len(free):
            raise ValueError(f"more than {len(_VARIABLES)} branches")
        self._names.update({(node, i): free[i] for i in range(count)})
        return ", ".join(free[:count])


def _torchvision_keys(graph, weights):
    """Node -> key such as features.0, if the network is torchvision's AlexNet; else nothing."""
    nodes = [node for node in graph.nodes if not node.is_variable]
    ops = [node.op for node in nodes]
    if "Flatten" not in ops or len(weights.get("conv1_weight", ())) != 64:
        return {}
    flat = ops.index("Flatten")
    places = {
        node: f"features.{i}" if i < flat else f"classifier.{i - flat - 1}"
        for i, node in enumerate(nodes)
        if node.op in ("Convolution", "FullyConnected")
    }
    return places if list(places.values()) == zoo_import.TORCHVISION else {}


def _key(node):
    """The layer's attribute; PReLU's is called as its slopes are: its node has but a number."""
    name = node.inputs[1].node.name if node.op == "LeakyReLU" and node.inputs[1:] else node.name
    name = re.sub(r"\W", "_", name)
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"layer_{name}"


def _place(key):
    folder, _, name = key.partition(".")
    return f'self.{folder}["{name}"]' if name else f"self.{folder}"


_MODULE = '''"""A network in PyTorch, made of the MXNet checkpoint {origin}.

    network = load()              # with the weights in the .safetensors file beside this one
    scores = network(images)      # (N, C, H, W) float32 -> (N, classes)

scores.softmax(1) are the probabilities of CLASSES. An image is a picture whose short side was
resized to RESIZE pixels (None: not resized), then cut to IMAGE_SHAPE at its centre, with pixels
from 0 to 255 in CHANNEL_ORDER, minus MEAN, divided by STD.
"""

import os

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

IMAGE_SHAPE = {image_shape}  # channels, height, width
RESIZE = {resize}
CHANNEL_ORDER = "{channel_order}"
MEAN = {mean}
STD = {std}
CLASSES = {classes}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        {layers}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        {forward}


def load() -> Network:
    """The network with its weights, for inference; network.train() prepares it for training."""
    network = Network()
    path = os.path.splitext(os.path.abspath(__file__))[0] + ".safetensors"
    network.load_state_dict(safetensors.torch.load_file(path))
    return network.eval()
'''


def module(source: Source, config: dict, origin: str) -> str:
    """The text of the Python module, from a checkpoint's config; ``origin`` is its name."""
    preparation = Preparation.from_args(config["args"])
    return _MODULE.format(
        **vars(preparation),
        origin=re.sub(r"[^\w.-]", "_", origin),
        channel_order="grey" if preparation.channels == 1 else "RGB",
        classes=pprint.pformat(class_names(config), width=99, compact=True),
        layers="\n        ".join(source.layers),
        forward="\n        ".join(source.forward),
    )


def write(text: str, weights: Dict[str, np.ndarray], module_path: str, weights_path: str) -> None:
    """Write the module and its weights."""
    with open(module_path, "w", encoding="utf-8") as file:
        file.write(text)
    safetensors.numpy.save_file(weights, weights_path)


_RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import network, torch, safetensors.torch
images = safetensors.torch.load_file(sys.argv[1] + "/images")["images"]
with torch.no_grad():
    said = network.load()(images).softmax(1)
safetensors.torch.save_file({"said": said}, sys.argv[1] + "/said")
"""


def difference(
    text: str,
    weights: Dict[str, np.ndarray],
    images: np.ndarray,
    expected: np.ndarray,
    python: str = sys.executable,
) -> float:
    """The largest difference in a probability between the module, run by ``python``, and MXNet.

    ``images`` are (N, C, H, W) float32, ``expected`` MXNet's probabilities, (N, classes). UserError
    if the difference is too large, or PyTorch cannot run the module.
    """
    with tempfile.TemporaryDirectory() as folder:
        write(text, weights, f"{folder}/network.py", f"{folder}/network.safetensors")
        safetensors.numpy.save_file({"images": images}, f"{folder}/images")
        ran = subprocess.run([python, "-c", _RUN, folder], capture_output=True, text=True)
        if ran.returncode:
            said = (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1]
            raise UserError(f"PyTorch: cannot run the module ({said}); nothing is written")
        found = safetensors.numpy.load_file(f"{folder}/said")["said"]
    return compare.difference("PyTorch", found, expected)
