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

from common.runtime.mxnet import mx

from .scope import own_scope


@own_scope()
def get_symbol(
    num_classes: int = 1000,
    num_group: int = 1,
    knorm: float = 2,
    pooling_convention: str = "valid",
) -> mx.sym.Symbol:
    """The network on ``data`` (N, 3, 227, 227) and ``softmax_label`` (N,).

    Args:
        num_classes: outputs of fc3.
        num_group: groups of conv2, conv4 and conv5; 2 for two towers.
        knorm: LRN's additive constant, k in the paper.
        pooling_convention: 'valid' rounds map sizes down, 'full' up; at 227 they agree.

    Returns:
        A symbol whose one output, ``softmax_output``, is (N, num_classes) probabilities.
    """
    # MXNet's own defaults are left out: the graph must equal the article's, attribute by attribute.
    towers = {} if num_group == 1 else {"num_group": num_group}
    edges = {} if pooling_convention == "valid" else {"pooling_convention": pooling_convention}
    lrn = {"alpha": 1e-4, "beta": 0.75, "knorm": f"{knorm:g}", "nsize": 5}
    pool = {"pool_type": "max", "kernel": (3, 3), "stride": (2, 2), **edges}

    net = mx.sym.Variable("data")
    net = _convolutions(net, towers, lrn, pool)
    net = _classifier(net, num_classes)
    return mx.sym.SoftmaxOutput(net, name="softmax")


def _convolutions(net: mx.sym.Symbol, towers: dict, lrn: dict, pool: dict) -> mx.sym.Symbol:
    # stage 1: 3x227x227 -> 96x27x27
    net = mx.sym.Convolution(net, name="conv1", num_filter=96, kernel=(11, 11), stride=(4, 4))
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.LRN(net, **lrn)
    net = mx.sym.Pooling(net, **pool)

    # stage 2: -> 256x13x13
    net = mx.sym.Convolution(net, name="conv2", num_filter=256, kernel=(5, 5), pad=(2, 2), **towers)
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.LRN(net, **lrn)
    net = mx.sym.Pooling(net, **pool)

    # stage 3: -> 256x6x6
    net = mx.sym.Convolution(net, name="conv3", num_filter=384, kernel=(3, 3), pad=(1, 1))
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.Convolution(net, name="conv4", num_filter=384, kernel=(3, 3), pad=(1, 1), **towers)
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.Convolution(net, name="conv5", num_filter=256, kernel=(3, 3), pad=(1, 1), **towers)
    net = mx.sym.Activation(net, act_type="relu")
    return mx.sym.Pooling(net, **pool)


def _classifier(net: mx.sym.Symbol, num_classes: int) -> mx.sym.Symbol:
    # stage 4: 256x6x6 -> 4096
    net = mx.sym.Flatten(net)
    net = mx.sym.FullyConnected(net, name="fc1", num_hidden=4096)
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.Dropout(net, p=0.5)

    # stage 5: -> 4096
    net = mx.sym.FullyConnected(net, name="fc2", num_hidden=4096)
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.Dropout(net, p=0.5)

    # stage 6: -> num_classes
    return mx.sym.FullyConnected(net, name="fc3", num_hidden=num_classes)
