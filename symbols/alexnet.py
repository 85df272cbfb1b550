"""AlexNet as one tower: the graph of the article. Sources and checks: see ``symbols``.

What differs from the paper, and why:

- One tower. The paper splits the channels over two 3 GB GPUs, so conv2, conv4 and conv5 read half
  of their input. One device needs no split, and the article has none. That makes 62,378,344
  parameters where the paper has 60 million. ``alexnet2012`` is the split form.
- The input is 227x227. The paper says 224, but its first maps of 55x55 need (227 - 11) / 4 + 1.
- LRN divides alpha by its window size, as the authors' released code (cuda-convnet2) does. The
  paper's formula does not.
- Dropout doubles the outputs that it keeps in training. The paper halves all outputs at test time
  instead, which gives the same expectation.
"""

import functools
from typing import Callable

from common.runtime.mxnet import mx

from . import layers
from .scope import own_scope

HIDDEN = 4096  # units of fc1 and of fc2


@own_scope()
def get_symbol(
    num_classes: int = 1000,
    num_group: int = 1,
    knorm: float = 2,
    pooling_convention: str = "valid",
    activation: str = "relu",
    dropout: float = 0.5,
    normalization: str = "lrn",
    pooling: str = "overlapping",
    pool_first: bool = False,
    dropout_form: str = "dropout",
) -> mx.sym.Symbol:
    """The network on ``data`` (N, 3, 227, 227) and ``softmax_label`` (N,).

    Its one output, ``softmax_output``, is (N, num_classes) probabilities. ValueError if there is no
    such option, or LRN by column is to split one tower.

    Args:
        num_classes: outputs of fc3.
        num_group: groups of conv2, conv4 and conv5; 2 for two towers.
        knorm: LRN's additive constant, k in the paper.
        pooling_convention: 'valid' rounds map sizes down, 'full' up; at 227 they agree.
        activation: one of ``layers.ACTIVATIONS``.
        dropout: the share of fc1's and fc2's outputs that training drops; 0: no such layer.
        normalization: 'lrn' after conv1 and conv2; 'lrn-by-column': each tower's channels apart;
            'bn-before', 'bn-after': batch normalization, at all activations; 'none'.
        pooling: 'overlapping' windows of 3x3, or 'plain' ones of 2x2; the stride is 2.
        pool_first: pool before the normalization, not after it.
        dropout_form: 'dropconnect' drops that share of fc1's and fc2's weights, not of outputs.
    """
    _check(num_group, activation, normalization, pooling, dropout_form)
    # MXNet's own defaults are left out: the graph must equal the article's, attribute by attribute.
    towers = {} if num_group == 1 else {"num_group": num_group}
    activate = functools.partial(_activate, activation=activation, normalization=normalization)
    shrink, pool = _shrinking(normalization, knorm, pooling, pooling_convention, pool_first)
    net = _convolutions(mx.sym.Variable("data"), towers, activate, shrink, pool)
    return classifier(net, num_classes, activate, dropout, dropout_form)


def _check(num_group, activation, normalization, pooling, dropout_form):
    for value, known in (
        (activation, layers.ACTIVATIONS),
        (normalization, layers.NORMALIZATIONS),
        (pooling, layers.POOLINGS),
        (dropout_form, layers.DROPOUT_FORMS),
    ):
        if value not in known:
            raise ValueError(f"{value}: is unknown; choose from {', '.join(known)}")
    if normalization == "lrn-by-column" and num_group == 1:
        raise ValueError(
            f"--normalization {normalization}: needs two towers, which alexnet2012 has"
        )
    if dropout_form == "dropconnect" and (activation != "relu" or normalization[:2] == "bn"):
        raise ValueError(
            f"--dropout-form {dropout_form}: is known for relu without batch normalization"
        )


def _activate(net, layer, activation, normalization):
    if normalization == "bn-before":
        net = layers.batch_norm(net, layer)
    net = layers.activation(net, activation, layer)
    return layers.batch_norm(net, layer) if normalization == "bn-after" else net


def _shrinking(normalization, knorm, pooling, pooling_convention, pool_first):
    """What ends stages 1 and 2; and the pooling alone, which ends stage 3."""
    edges = {} if pooling_convention == "valid" else {"pooling_convention": pooling_convention}
    window = {"kernel": (layers.POOLINGS[pooling],) * 2, "stride": (2, 2)}
    pool = functools.partial(mx.sym.Pooling, pool_type="max", **window, **edges)
    normalise = functools.partial(_normalise, normalization=normalization, knorm=knorm)

    def shrink(net):
        return normalise(pool(net)) if pool_first else pool(normalise(net))

    return shrink, pool


def _normalise(net, normalization, knorm):
    lrn = functools.partial(layers.lrn, knorm=knorm)
    if normalization == "lrn-by-column":
        return layers.by_column(net, lrn)
    return lrn(net) if normalization == "lrn" else net


def _convolutions(
    net: mx.sym.Symbol, towers: dict, activate: Callable, shrink: layers.Layer, pool: layers.Layer
) -> mx.sym.Symbol:
    # stage 1: 3x227x227 -> 96x27x27
    net = mx.sym.Convolution(net, name="conv1", num_filter=96, kernel=(11, 11), stride=(4, 4))
    net = activate(net, "conv1")
    net = shrink(net)

    # stage 2: -> 256x13x13
    net = mx.sym.Convolution(net, name="conv2", num_filter=256, kernel=(5, 5), pad=(2, 2), **towers)
    net = activate(net, "conv2")
    net = shrink(net)

    # stage 3: -> 256x6x6
    net = mx.sym.Convolution(net, name="conv3", num_filter=384, kernel=(3, 3), pad=(1, 1))
    net = activate(net, "conv3")
    net = mx.sym.Convolution(net, name="conv4", num_filter=384, kernel=(3, 3), pad=(1, 1), **towers)
    net = activate(net, "conv4")
    net = mx.sym.Convolution(net, name="conv5", num_filter=256, kernel=(3, 3), pad=(1, 1), **towers)
    return pool(activate(net, "conv5"))


def classifier(
    net: mx.sym.Symbol,
    num_classes: int,
    activate: Callable,
    dropout: float,
    dropout_form: str = "dropout",
) -> mx.sym.Symbol:
    """The fully connected layers and softmax on (N, 256, 6, 6); ``activate``: see layers.hidden."""
    # stage 4: 256x6x6 -> 4096
    net = mx.sym.Flatten(net)
    net = layers.hidden(net, "fc1", HIDDEN, activate, dropout, dropout_form)

    # stage 5: -> 4096
    net = layers.hidden(net, "fc2", HIDDEN, activate, dropout, dropout_form)

    # stage 6: -> num_classes
    net = mx.sym.FullyConnected(net, name="fc3", num_hidden=num_classes)
    return mx.sym.SoftmaxOutput(net, name="softmax")
