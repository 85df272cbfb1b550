"""A loss whose gradient is multiplied by a weight for each image; the probabilities stay."""

from common.runtime.mxnet import mx

from .graph import Graph, Node, Output

WEIGHT = "softmax_weight"  # a second label, (N,)


def weighted(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """A copy of ``symbol`` that multiplies the gradient of its SoftmaxOutput by WEIGHT.

    The softmax reads x + WEIGHT * (x - x), where no gradient passes the first and third x. That is
    x to the last bit. (SoftmaxOutput has an attribute, out_grad, that should do the same. In MXNet
    1.9.1's CPU build it gives other numbers.)
    """
    graph = Graph(symbol)
    for node in graph.nodes:
        if node.op != "SoftmaxOutput":
            continue
        name, logits = node.name, node.inputs[0]
        weight = Output(Node("null", WEIGHT))
        column = Output(Node("Reshape", f"{name}_weights", [weight], {"shape": "(-1, 1)"}))
        fixed = Output(Node("BlockGrad", f"{name}_fixed", [logits]))
        zero = Output(Node("elemwise_sub", f"{name}_zero", [logits, fixed]))
        scaled = Output(Node("broadcast_mul", f"{name}_weighted", [zero, column]))
        node.inputs[0] = Output(Node("elemwise_add", f"{name}_logits", [fixed, scaled]))
    return graph.symbol()
