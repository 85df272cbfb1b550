"""LRN decomposed into stock operators, so that its gradient is right on the CPU.

MXNet 1.9.1's CPU build computes LRN with MKL-DNN, which keeps maps in a blocked memory layout:
eight or sixteen channels side by side. LRN's backward pass changes the layout of the layer's input
to the plain one, but takes the incoming gradient as it is. Where another layer follows, that
gradient is blocked, so it is read in the wrong order; and MKL-DNN gets a fresh workspace, not that
of the forward pass (mkldnn_lrn-inl.h has an open TODO on it, MXNET-846). The forward pass is right,
and so is the gradient of an LRN with no layer after it. In AlexNet the gradient of conv1 is off by
1 to 24%; tests/graph/test_gradients.py shows it.

:func:`decompose_lrn` puts a few operators with right gradients in the place of each LRN. It needs
no compiler; the C++ operator that common/graph/native_operators.py uses is faster. GPUs and builds
without MKL-DNN run other code: bind the plain symbol there.
"""

from common.runtime.mxnet import mx

from .graph import Graph


def decompose_lrn(symbol: mx.sym.Symbol, data: tuple) -> mx.sym.Symbol:
    """Replace each LRN by stock operators with the same output and the right gradient.

    ``data`` is the shape of that input as it will be bound; the batch size does not matter.
    ValueError if it does not determine an LRN's number of channels.
    """
    graph = Graph(symbol)
    lrns = [node for node in graph.nodes if node.op == "LRN"]
    if not lrns:
        return symbol
    shapes = graph.shapes(data=data)
    for lrn in lrns:
        shape = shapes.get(lrn.name + "_output", ())
        if len(shape) != 4 or not shape[1]:
            raise ValueError(f"the shape of data does not determine the channels of {lrn.name}")
        graph.expand(lrn, _normalise(lrn.attrs, shape[1]))
    return graph.symbol()


def _normalise(attrs, channels):
    """x / (knorm + alpha / nsize * sum of x**2 over nsize channels) ** beta, of a variable x.

    The sum is a 1x1 convolution with a constant band matrix. MXNet computes that faster than sums
    of slices or a pooling over channels, and exp(log) faster than a power.
    """
    nsize, alpha = int(attrs["nsize"]), float(attrs.get("alpha", 1e-4))
    beta, knorm = float(attrs.get("beta", 0.75)), float(attrs.get("knorm", 2))
    with mx.name.NameManager():  # the same names each time
        x = mx.sym.Variable("x")
        at = mx.sym.arange(0, channels)
        distance = mx.sym.abs(mx.sym.broadcast_sub(at.reshape((-1, 1)), at.reshape((1, -1))))
        band = (distance <= (nsize - 1) // 2) * (alpha / nsize)
        scale = mx.sym.Convolution(
            mx.sym.square(x),
            weight=mx.sym.BlockGrad(band.reshape((channels, channels, 1, 1))),
            bias=mx.sym.BlockGrad(mx.sym.full((channels,), knorm)),
            kernel=(1, 1),
            num_filter=channels,
        )
        return x * mx.sym.exp(mx.sym.log(scale) * -beta)
