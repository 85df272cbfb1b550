"""Passes over a graph: nodes replaced in MXNet's JSON form of a symbol."""

import json
from typing import Callable, List

from common.runtime.mxnet import mx


def rewrite(symbol: mx.sym.Symbol, put: Callable[[dict, List[dict]], int]) -> mx.sym.Symbol:
    """A copy of ``symbol`` in which each node is what ``put`` makes of it.

    Args:
        put: (node, nodes) -> index. It appends to ``nodes``, the new graph so far, what stands for
            ``node``, whose inputs are numbered as there, and returns the index in ``nodes`` of the
            one that has its outputs; it may append nothing.
    """
    graph = json.loads(symbol.tojson())
    nodes, place = [], []  # place[i]: where the old node i, or what stands for it, is in nodes
    for node in graph["nodes"]:
        node["inputs"] = [[place[source], *rest] for source, *rest in node["inputs"]]
        place.append(put(node, nodes))
    graph["nodes"] = nodes
    graph["arg_nodes"] = [i for i, node in enumerate(nodes) if node["op"] == "null"]
    graph["heads"] = [[place[source], *rest] for source, *rest in graph["heads"]]
    del graph["node_row_ptr"]  # derived from the nodes; MXNet makes it again
    return mx.sym.load_json(json.dumps(graph))
