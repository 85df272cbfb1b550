"""AlexNet of "One weird trick", as torchvision's and Gluon's model zoos have it.

A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv 1404.5997,
2014, describes it in footnote 1: one tower with 64 and 192 maps in its first two layers, without
LRN. torchvision adds a padding of 2 to conv1 and has 256 maps in conv4, where the paper has 384:
61,100,840 parameters. Dropout comes before fc1 and fc2, not after them as in the article. The input
is 224x224.

torchvision's network averages the last maps to 6x6, for inputs of other sizes. At 224 they are 6x6
already. Here fc1 takes them as they are, so its weights fit images of one size.
"""

from common.runtime.mxnet import mx

from . import alexnet
from .scope import own_scope


@own_scope()
def get_symbol(num_classes: int = 1000) -> mx.sym.Symbol:
    """As :func:`alexnet.get_symbol`, on (N, 3, 224, 224)."""
    pool = {"pool_type": "max", "kernel": (3, 3), "stride": (2, 2)}
    small = {"kernel": (3, 3), "pad": (1, 1)}
    data = mx.sym.Variable("data")

    # stage 1: 3x224x224 -> 64x27x27
    large = {"kernel": (11, 11), "stride": (4, 4), "pad": (2, 2)}
    net = mx.sym.Convolution(data, name="conv1", num_filter=64, **large)
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.Pooling(net, **pool)

    # stage 2: -> 192x13x13
    net = mx.sym.Convolution(net, name="conv2", num_filter=192, kernel=(5, 5), pad=(2, 2))
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.Pooling(net, **pool)

    # stage 3: -> 256x6x6
    net = mx.sym.Convolution(net, name="conv3", num_filter=384, **small)
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.Convolution(net, name="conv4", num_filter=256, **small)
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.Convolution(net, name="conv5", num_filter=256, **small)
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.Pooling(net, **pool)

    # stages 4 and 5: 256x6x6 -> 4096 -> 4096
    net = mx.sym.Flatten(net)
    for name in ("fc1", "fc2"):
        net = mx.sym.Dropout(net, p=0.5)
        net = mx.sym.FullyConnected(net, name=name, num_hidden=alexnet.HIDDEN)
        net = mx.sym.Activation(net, act_type="relu")

    # stage 6: -> num_classes
    net = mx.sym.FullyConnected(net, name="fc3", num_hidden=num_classes)
    return mx.sym.SoftmaxOutput(net, name="softmax")
