"""PReLU decomposed into stock operators, so that the gradient of its slopes is right.

MXNet 1.9.1 computes the gradient of LeakyReLU's input in the place of the incoming gradient, and
the slopes' gradient from what is then there. Below 0 that has been multiplied by the slope, and so
is the slopes' gradient: at the usual slope of .25 three quarters of it are lost. It is right where
something else reads the incoming gradient; tests/graph/test_gradients.py shows both. Outputs are
right, so the plain symbol is for inference and for saving.
"""

from common.runtime.mxnet import mx

from .graph import Graph


def decompose_prelu(symbol: mx.sym.Symbol, data: tuple) -> mx.sym.Symbol:
    """Replace each PReLU by max(x, 0) - slope * max(-x, 0), with a slope for each channel.

    Args:
        symbol: any graph; one without PReLU is returned as it is.
        data: shape of the input ``data`` as it will be bound; the batch size does not matter.
    """
    graph = Graph(symbol)
    found = [node for node in graph.nodes if node.settings.get("act_type") == "prelu"]
    if not found:
        return symbol
    shapes = graph.shapes(data=data)
    for node in found:
        _, channels, *rest = shapes[f"{node.name}_output"]
        node.inputs[1].node.attrs["__shape__"] = str((channels,))  # reshaped, it is not inferred
        with mx.name.NameManager():  # the same names each time
            x, slope = mx.sym.Variable("x"), mx.sym.Variable("slope")
            above, below = (mx.sym.Activation(one, act_type="relu") for one in (x, -x))
            by = slope.reshape((1, channels, *(1 for _ in rest)))
            graph.expand(node, above - mx.sym.broadcast_mul(below, by))
    return graph.symbol()
