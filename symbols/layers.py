"""The layers of AlexNet that its options exchange, and two that only the net of 2012 has."""

import math
from typing import Callable

from common.runtime.mxnet import mx

ACTIVATIONS = ("relu", "tanh", "scaled-tanh", "sigmoid", "prelu", "rrelu", "elu")
NORMALIZATIONS = ("lrn", "lrn-by-column", "bn-before", "bn-after", "none")
POOLINGS = {"overlapping": 3, "plain": 2}  # side of the window; the stride is 2
DROPOUT_FORMS = ("dropout", "dropconnect")

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


def hidden(
    net: mx.sym.Symbol, layer: str, units: int, activate: Callable, dropout: float, form: str
) -> mx.sym.Symbol:
    """A fully connected layer called ``layer``, its activation and its dropout.

    Args:
        activate: (layer's output, its name) -> its activation.
        dropout: the share that training drops.
        form: one of ``DROPOUT_FORMS``.
    """
    if form == "dropconnect" and dropout:
        return dropconnect(net, layer, units, dropout)
    net = mx.sym.FullyConnected(net, name=layer, num_hidden=units)
    net = activate(net, layer)
    return mx.sym.Dropout(net, p=dropout) if dropout else net


def dropconnect(net: mx.sym.Symbol, layer: str, units: int, share: float) -> mx.sym.Symbol:
    """A fully connected layer with ReLU of which training drops weights: Wan et al. 2013.

    Training draws one mask for each batch. The paper draws one for each image, which here would be
    a matrix for each image.

    Inference is the paper's, its section 3.2: the masks make a sum of the layer a random number,
    nearly normal, whose mean and variance are known. The paper averages ReLU over samples of it;
    here is the integral that the average tends to.
    """
    # MXNet cannot infer the type of what is masked, nor from an output of unknown rank onwards.
    weight = mx.sym.Variable(f"{layer}_weight", dtype="float32")
    variables = weight, mx.sym.Variable(f"{layer}_bias", dtype="float32", shape=(units,))
    masks = [mx.sym.Dropout(mx.sym.ones_like(one), p=share) for one in variables]
    masked = [one * mask for one, mask in zip(variables, masks)]
    sums = mx.sym.FullyConnected(net, *masked, name=layer, num_hidden=units)
    variance = mx.sym.FullyConnected(
        net * net, *(one * one for one in variables), name=f"{layer}_variance", num_hidden=units
    )
    deviation = mx.sym.sqrt(variance * (share / (1 - share)) + 1e-6)
    training = mx.sym.reshape(mx.sym.max(masks[1]) > 1, (1, 1), name=f"{layer}_is_training")
    drawn = mx.sym.broadcast_mul(mx.sym.Activation(sums, act_type="relu"), training)
    mean = mx.sym.BlockGrad(_mean_of_relu(sums, deviation))
    return drawn + mx.sym.broadcast_mul(mean, 1 - training)


def _mean_of_relu(mean, deviation):
    """Of numbers that are distributed normally."""
    ratio = mean / deviation
    density = mx.sym.exp(-0.5 * ratio * ratio) * (2 * math.pi) ** -0.5
    return (mx.sym.LeakyReLU(ratio, act_type="gelu") + density) * deviation


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
