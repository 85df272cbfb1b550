"""A symbol as nodes that Python can read and change.

MXNet's Symbol cannot be edited, but it can be written as JSON and made from it. :class:`Graph` is
that JSON with references in place of numbers. A pass changes nodes or what they read, and takes
the new symbol::

    graph = Graph(symbol)
    for node in graph.nodes:
        if node.op == "Dropout":
            graph.replace(node, node.inputs[0])
    return graph.symbol()
"""

import collections
import dataclasses
import json
from typing import Counter, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from common.runtime.mxnet import mx


@dataclasses.dataclass(eq=False)  # two nodes are equal only if they are one object
class Node:
    """An operator, or a variable: an input or a weight, whose operator is 'null'."""

    op: str
    name: str
    inputs: List["Output"] = dataclasses.field(default_factory=list)
    attrs: Dict[str, str] = dataclasses.field(default_factory=dict)
    outputs: int = 1  # how many it has, hidden ones included
    other: dict = dataclasses.field(default_factory=dict)  # JSON fields, such as int8's subgraphs

    @property
    def is_variable(self) -> bool:
        """Whether the node is an input or a weight."""
        return self.op == "null"

    @property
    def settings(self) -> Dict[str, str]:
        """The attributes that the operator reads: without hidden ones, such as __ctx_group__."""
        return {key: value for key, value in self.attrs.items() if not key.startswith("__")}

    @property
    def hidden(self) -> Dict[str, str]:
        """The other attributes, such as __ctx_group__, the device group."""
        return {key: value for key, value in self.attrs.items() if key.startswith("__")}


class Output(NamedTuple):
    """One output of a node, which is an input of other nodes or an output of the graph."""

    node: Node
    index: int = 0
    version: int = 0  # MXNet's count of changes in place, of auxiliary states


class Graph:
    """The ``nodes`` and ``outputs`` of a symbol; ``version``: MXNet's, as graphs in JSON have it.

    ``nodes`` are all of the symbol, each after its inputs. Nodes that a pass adds or cuts off do
    not change this list; :meth:`symbol` finds them through ``outputs``.
    """

    def __init__(self, symbol: mx.sym.Symbol):
        """Read ``symbol``, which stays as it is."""
        graph = json.loads(symbol.tojson())
        first = graph.pop("node_row_ptr")  # the number of each node's first output
        self.nodes: List[Node] = []
        for i, fields in enumerate(graph.pop("nodes")):
            inputs = self._read(fields.pop("inputs"))
            op, name, attrs = fields.pop("op"), fields.pop("name"), fields.pop("attrs", {})
            self.nodes.append(Node(op, name, inputs, attrs, first[i + 1] - first[i], fields))
        self.outputs = self._read(graph.pop("heads"))
        self.version: dict = graph.pop("attrs")

    def _read(self, entries):
        return [Output(self.nodes[node], *rest) for node, *rest in entries]

    def symbol(self) -> mx.sym.Symbol:
        """A symbol of the nodes that the outputs depend on."""
        place = _in_order(self.outputs)

        def entries(outputs):
            return [[place[node], *rest] for node, *rest in outputs]

        nodes = [
            {
                **node.other,
                "op": node.op,
                "name": node.name,
                "attrs": node.attrs,
                "inputs": entries(node.inputs),
            }
            for node in place
        ]
        variables = [i for i, node in enumerate(place) if node.is_variable]
        graph = {"nodes": nodes, "arg_nodes": variables, "heads": entries(self.outputs)}
        return mx.sym.load_json(json.dumps({**graph, "attrs": self.version}))

    def taken(self) -> Iterator[Output]:
        """Each input of each node, then each output of the graph."""
        for node in self.nodes:
            yield from node.inputs
        yield from self.outputs

    def uses(self) -> Counter[Node]:
        """How often each node is read: by other nodes, and as an output of the graph."""
        return collections.Counter(output.node for output in self.taken())

    def readers(self) -> Dict[Node, Set[Optional[Node]]]:
        """The nodes that read each node; None among them: it is an output of the graph."""
        readers: Dict[Node, Set[Optional[Node]]] = {node: set() for node in self.nodes}
        for node in self.nodes:
            for source in node.inputs:
                readers[source.node].add(node)
        for output in self.outputs:
            readers[output.node].add(None)
        return readers

    def replace(self, node: Node, by: Output) -> None:
        """Let everything that reads the first output of ``node`` read ``by`` instead."""

        def replaced(outputs):
            return [by if (one.node, one.index) == (node, 0) else one for one in outputs]

        for reader in self.nodes:
            reader.inputs = replaced(reader.inputs)
        self.outputs = replaced(self.outputs)

    def expand(self, node: Node, by: mx.sym.Symbol) -> None:
        """Put ``by``, whose variables stand for the inputs of ``node`` in order, in its place.

        The last new node has its name; all have its hidden attributes, such as the device group.
        """
        new, inputs = Graph(by), iter(node.inputs)
        for one in new.nodes:
            if one.is_variable:
                new.replace(one, next(inputs))
            one.name, one.attrs = f"{node.name}_{one.name}", {**one.settings, **node.hidden}
        new.outputs[0].node.name = node.name
        self.replace(node, Output(new.outputs[0].node))

    def shapes(self, **inputs: Tuple[int, ...]) -> Dict[str, Tuple[int, ...]]:
        """Shapes by name, as far as those of ``inputs`` determine them.

        A name is that of a variable, or of an output such as ``conv1_output``. What is not
        determined is 0, or the whole shape is (). MXNetError if ``inputs`` do not fit the network.
        """
        internals = self.symbol().get_internals()
        _, shapes, _ = internals.infer_shape_partial(**inputs)
        return dict(zip(internals.list_outputs(), shapes))


def _in_order(outputs):
    """Node -> number, of all nodes that ``outputs`` depend on; each comes after its inputs."""
    place, waiting = {}, [output.node for output in reversed(outputs)]
    while waiting:
        node = waiting[-1]
        missing = [source.node for source in reversed(node.inputs) if source.node not in place]
        waiting += missing
        if not missing:
            place.setdefault(waiting.pop(), len(place))
    return place
