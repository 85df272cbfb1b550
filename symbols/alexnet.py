"""AlexNet, the graph of the article "CNN网络结构-AlexNet" (cnblogs, qw12, 8470730).

Paper: A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional
Neural Networks", NIPS 2012.

What differs from the paper, and why:

- One tower. The paper split the channels over two 3 GB GPUs, so conv2, conv4 and conv5 saw half
  of their input; one device needs no split, and the article's listing has none. That makes
  62,378,344 parameters for the paper's 60 million. ``alexnet2012`` is the split form.
- The input is 227x227. The paper says 224, but its 55x55 first maps need (227 - 11) / 4 + 1.
- LRN divides alpha by its window, as the authors' released code (cuda-convnet2) does; the paper's
  formula does not.
- Dropout scales by 2 in training instead of by 1/2 at test time (same expectation).

How its numbers are checked: tests/golden/alexnet-graph.json is the graph node by node, the layer
table (``python -m symbols alexnet``) meets the article's neuron counts at 227, and
tests/graph/test_gradients.py compares outputs and gradients with an implementation in numpy.
"""

from common.runtime.mxnet import mx
from symbols.scope import own_scope


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
        num_group: towers that conv2, conv4 and conv5 are split into.
        knorm: LRN's additive constant.
        pooling_convention: 'valid' rounds map sizes down, 'full' up; at 227 they agree.

    Returns:
        A symbol whose one output, ``softmax_output``, is (N, num_classes) probabilities.
    """
    # What is MXNet's own default stays unsaid, so that the graph is the article's to the letter.
    towers = {} if num_group == 1 else {"num_group": num_group}
    edges = {} if pooling_convention == "valid" else {"pooling_convention": pooling_convention}
    lrn = {"alpha": 1e-4, "beta": 0.75, "knorm": f"{knorm:g}", "nsize": 5}
    pool = {"pool_type": "max", "kernel": (3, 3), "stride": (2, 2), **edges}

    net = mx.sym.Variable("data")
    net = _convolutions(net, towers, lrn, pool)
    net = _classifier(net, num_classes)
    return mx.sym.SoftmaxOutput(net, name="softmax")


def _convolutions(net, towers, lrn, pool):
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


def _classifier(net, num_classes):
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
