"""The layers of AlexNet that its options exchange, and two that only the net of 2012 has."""

from typing import Callable

from common.runtime.mxnet import mx

ACTIVATIONS = ("relu", "tanh", "scaled-tanh", "sigmoid", "prelu", "rrelu", "elu")
NORMALIZATIONS = ("lrn", "lrn-by-column", "bn-before", "bn-after", "none")
POOLINGS = {"overlapping": 3, "plain": 2}  # side of the window; the stride is 2

Layer = Callable[[mx.sym.Symbol], mx.sym.Symbol]


def activation(net: mx.sym.Symbol, kind: str, layer: str) -> mx.sym.Symbol:
    """An activation function of ``net``; ``layer`` is the layer before it, for names.

    - scaled-tanh: 1.7159 tanh(2x/3), LeCun et al. 1998, appendix A.
    - prelu: He et al. 2015. A slope for each channel, .25 at first, without weight decay.
    - rrelu: Xu et al. 2015. Random slopes from 1/8 to 1/3 in training, else their mean.
    - elu: Clevert et al. 2015, with alpha 1.
    """
    if kind == "scaled-tanh":
        return mx.sym.Activation(net * (2 / 3), act_type="tanh") * 1.7159
    if kind == "prelu":
        slope = mx.sym.Variable(f"{layer}_slope", init=mx.init.Constant(0.25))
        return mx.sym.LeakyReLU(net, slope, act_type="prelu")
    if kind == "rrelu":
        # Its second output are the slopes.
        return mx.sym.LeakyReLU(net, act_type="rrelu", lower_bound=1 / 8, upper_bound=1 / 3)[0]
    if kind == "elu":
        return mx.sym.LeakyReLU(net, act_type="elu", slope=1)
    return mx.sym.Activation(net, act_type=kind)


def batch_norm(net: mx.sym.Symbol, layer: str) -> mx.sym.Symbol:
    """Batch normalization with a trained scale and shift, Ioffe and Szegedy 2015."""
    return mx.sym.BatchNorm(net, name=f"{layer}_bn", fix_gamma=False)


def lrn(net: mx.sym.Symbol, knorm: float = 2) -> mx.sym.Symbol:
    """Local response normalisation over channels, section 3.3 of the paper."""
    return mx.sym.LRN(net, alpha=1e-4, beta=0.75, knorm=f"{knorm:g}", nsize=5)


def by_column(net: mx.sym.Symbol, layers: Layer) -> mx.sym.Symbol:
    """Apply ``layers`` to the first and to the second half of the channels, one GPU's each."""
    columns = mx.sym.SliceChannel(net, num_outputs=2)
    return mx.sym.Concat(*[layers(column) for column in columns], dim=1)


def normalise_within_maps(net: mx.sym.Symbol) -> mx.sym.Symbol:
    """cuda-convnet's rnorm: x / (1 + 1e-3/25 * sum of x**2 over 5x5 pixels of its map) ** .75."""
    mean = mx.sym.Pooling(net * net, pool_type="avg", kernel=(5, 5), stride=(1, 1), pad=(2, 2))
    return net * (1 + 1e-3 * mean) ** -0.75
