"""LeNet-5, with which the article compares AlexNet. Sources and checks: see ``symbols``.

The layers have the paper's names. What differs from the paper, and why:

- Each map of C3 reads all six maps of S2 (2,416 parameters). In the paper's table I it reads 3, 4
  or 6 of them (1,516), to break the symmetry and save work. Random weights break it, too.
- S2 and S4 are plain averages. In the paper they also have a trainable coefficient and bias for
  each map (12 and 32 parameters) and a sigmoid. MXNet has no such layer.
- tanh(a) replaces the paper's scaled 1.7159 tanh(2a/3). The scale suits targets of +1 and -1,
  which a softmax does not have. The option ``activation`` has others.
- The output is a fully connected layer with softmax and cross-entropy. The paper has ten radial
  basis functions around fixed bitmaps of 7x12, and its own loss (equation 9).

The network has 61,706 parameters where the paper has 60,000. Pad digits of 28x28 to 32x32, as the
paper does: the end of a stroke can then lie in the centre of the receptive field of a C5 unit.
"""

from common.runtime.mxnet import mx

from . import layers
from .scope import own_scope


@own_scope()
def get_symbol(num_classes: int = 10, activation: str = "tanh") -> mx.sym.Symbol:
    """The network on ``data`` (N, 1, 32, 32), or (N, 3, 32, 32), and ``softmax_label`` (N,).

    Its output is (N, num_classes) probabilities; ``activation``, one of ``layers.ACTIVATIONS``.
    """
    data = mx.sym.Variable("data")

    # stage 1: 1x32x32 -> C1 6x28x28 -> S2 6x14x14
    net = mx.sym.Convolution(data, name="c1", num_filter=6, kernel=(5, 5))
    net = layers.activation(net, activation, "c1")
    net = mx.sym.Pooling(net, name="s2", pool_type="avg", kernel=(2, 2), stride=(2, 2))

    # stage 2: -> C3 16x10x10 -> S4 16x5x5
    net = mx.sym.Convolution(net, name="c3", num_filter=16, kernel=(5, 5))
    net = layers.activation(net, activation, "c3")
    net = mx.sym.Pooling(net, name="s4", pool_type="avg", kernel=(2, 2), stride=(2, 2))

    # stage 3: -> C5 120x1x1
    net = mx.sym.Convolution(net, name="c5", num_filter=120, kernel=(5, 5))
    net = layers.activation(net, activation, "c5")

    # stage 4: -> F6 84
    net = mx.sym.Flatten(net)
    net = mx.sym.FullyConnected(net, name="f6", num_hidden=84)
    net = layers.activation(net, activation, "f6")

    # stage 5: -> num_classes
    net = mx.sym.FullyConnected(net, name="output", num_hidden=num_classes)
    return mx.sym.SoftmaxOutput(net, name="softmax")
