"""PReLU and RReLU decomposed into stock operators, because MXNet cannot train with its own.

- The gradient of PReLU's slopes is wrong. MXNet 1.9.1 computes the gradient of the layer's input in
  the place of the incoming one, and the slopes' from what is then there. Below 0 that has been
  multiplied by the slope: at the usual .25 three quarters of it are lost. It is right only where
  something else reads the incoming gradient; tests/graph/test_gradients.py shows it.
- RReLU crashes the process in training (apache/mxnet#14447).

Outputs are right in inference, so the plain symbol is for that and for saving.
"""

from common.runtime.mxnet import mx

from .graph import Graph


def decompose_leaky(symbol: mx.sym.Symbol, data: tuple) -> mx.sym.Symbol:
    """Replace each PReLU and RReLU by max(x, 0) - slope * max(-x, 0), for training.

    ``data`` is the shape of that input as it will be bound; the batch size does not matter.
    """
    graph = Graph(symbol)
    found = [n for n in graph.nodes if n.settings.get("act_type") in ("prelu", "rrelu")]
    if not found:
        return symbol
    shapes = graph.shapes(data=data)
    for node in found:
        with mx.name.NameManager():  # the same names each time
            x = mx.sym.Variable("x")
            above, below = (mx.sym.Activation(one, act_type="relu") for one in (x, -x))
            if node.settings["act_type"] == "prelu":
                _, channels, *rest = shapes[f"{node.name}_output"]
                # Reshaped, the shape of the slopes is not inferred.
                node.inputs[1].node.attrs["__shape__"] = str((channels,))
                slope = mx.sym.Variable("slope").reshape((1, channels, *(1 for _ in rest)))
                below = mx.sym.broadcast_mul(below, slope)
            else:
                low, high = (float(node.settings[f"{end}_bound"]) for end in ("lower", "upper"))
                below = below * mx.sym.random.uniform_like(x, low, high)
            graph.expand(node, above - below)
    return graph.symbol()
