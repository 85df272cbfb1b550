"""Graph: a symbol as nodes, and back."""

import json

import mxnet as mx
import numpy as np
import pytest
from conftest import operators

import symbols
from common.convert import quantization
from common.graph.graph import Graph, Node, Output


def content(symbol):
    return json.loads(symbol.tojson())


@pytest.mark.parametrize("network", symbols.NETWORKS)
def test_a_graph_that_nothing_changed_gives_the_same_symbol(network):
    symbol = symbols.get_symbol(network)
    assert content(Graph(symbol).symbol()) == content(symbol)


def test_layers_that_hold_a_graph_of_their_own_stay_whole():
    net = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=2, kernel=(1, 1), name="c")
    net = mx.sym.SoftmaxOutput(mx.sym.Flatten(mx.sym.relu(net)), name="softmax")
    weights = {"c_weight": mx.nd.ones((2, 3, 1, 1)), "c_bias": mx.nd.zeros(2)}
    images = np.ones((2, 3, 2, 2), np.float32)
    int8, *_ = quantization.quantize(net, weights, {}, images, (3, 2, 2))
    assert any("subgraphs" in node.other for node in Graph(int8).nodes)
    assert content(Graph(int8).symbol()) == content(int8)


def test_several_outputs_auxiliary_states_and_hidden_attributes_stay():
    with mx.AttrScope(ctx_group="second"):
        net = mx.sym.BatchNorm(mx.sym.Variable("data", lr_mult=2), name="b")
    first, second = mx.sym.split(net, num_outputs=2, axis=1, name="s")
    symbol = mx.sym.Group([second, mx.sym.Dropout(first), net])
    again = Graph(symbol).symbol()
    assert content(again) == content(symbol)
    assert again.list_auxiliary_states() == ["b_moving_mean", "b_moving_var"]
    (node,) = (node for node in Graph(symbol).nodes if node.name == "b")
    assert "__ctx_group__" in node.attrs and node.settings == {}


def test_a_deep_graph_is_no_deeper_than_python_can_recurse():
    net = mx.sym.Variable("data")
    for _ in range(1500):
        net = net + 1
    assert len(Graph(Graph(net).symbol()).nodes) == 1501


def test_uses_count_readers_and_outputs():
    data = mx.sym.Variable("data")
    both = mx.sym.Group([data * data, mx.sym.relu(data), data])
    graph = Graph(both)
    assert {node.name: count for node, count in graph.uses().items() if node.is_variable} == {
        "data": 4
    }


def test_readers_of_a_replaced_node_read_the_new_one():
    data = mx.sym.Variable("data")
    symbol = mx.sym.Group([mx.sym.relu(data, name="r"), mx.sym.tanh(data, name="t"), data])
    graph = Graph(symbol)
    graph.replace(graph.nodes[0], Output(Node("negative", "n", [Output(graph.nodes[0])])))
    changed = graph.symbol()
    assert operators(changed) == {"n": "negative", "r": "relu", "t": "tanh"}
    said = [output.asnumpy() for output in changed.eval(data=mx.nd.array([-2.0, 3.0]))]
    expected = [[2, 0], np.tanh([2, -3]), [2, -3]]
    for found, right in zip(said, expected):
        np.testing.assert_allclose(found, right, rtol=1e-6)
    assert operators(symbol) == {"r": "relu", "t": "tanh"}


def test_readers_of_a_replaced_nodes_second_output_keep_it():
    graph = Graph(mx.sym.Group([*mx.sym.split(mx.sym.Variable("data"), num_outputs=2)]))
    node = graph.nodes[1]
    graph.replace(node, Output(Node("negative", "n", [Output(node)])))
    said = graph.symbol().eval(data=mx.nd.array([[1, 2]]))
    assert [output.asscalar() for output in said] == [-1, 2]


def test_shapes_are_known_as_far_as_the_inputs_determine_them():
    data, other = mx.sym.Variable("data"), mx.sym.Variable("other")
    net = mx.sym.Group([mx.sym.FullyConnected(data, num_hidden=5, name="f"), mx.sym.relu(other)])
    shapes = Graph(net).shapes(data=(2, 3))
    assert shapes["f_output"] == (2, 5) and shapes["f_weight"] == (5, 3)
    assert shapes["other"] == ()
    with pytest.raises(mx.MXNetError):
        Graph(net).shapes(data=(2, 3), f_weight=(5, 4))
