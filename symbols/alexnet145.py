"""AlexNet as its own source has it: ``layers/layers-145.cfg``, the net of the paper's 18.2% error.

Source: the repository computerhistory/AlexNet-Source-Code. docs/which-alexnet.md gives its lines.
What differs from the paper and from ``alexnet2012``:

- Each column normalises its own channels: LRN's window does not cross between the two.
- Stage 1 is conv1, LRN, pooling, relu. The paper has relu, LRN, pooling.
- Stage 2 has a second normalisation, within each map, which the paper does not mention.
- The input is 224x224. Map sizes are rounded up, so conv1's are 55x55.
- The relu after conv5 follows the pooling. The two commute.

What differs from that source:

- conv3, fc1, fc2 and fc3 are one layer each. The source has one a column, which read the same.
- As in ``alexnet``, dropout doubles what it keeps. The source halves all outputs in the test.
"""

from common.runtime.mxnet import mx

from . import alexnet, layers
from .scope import own_scope

_ROUNDED_UP = (0, 0, 0, 0, 0, 3, 0, 3)  # zeros below and to the right: ceil(a/4) = floor((a+3)/4)


@own_scope()
def get_symbol(num_classes: int = 1000) -> mx.sym.Symbol:
    """As :func:`alexnet.get_symbol`, on (N, 3, 224, 224)."""
    net = _convolutions(mx.sym.Variable("data"))
    return alexnet.classifier(net, num_classes, _relu, dropout=0.5)


def _convolutions(net):
    # stage 1: 3x224x224 -> 96x27x27
    net = mx.sym.Pad(net, mode="constant", pad_width=_ROUNDED_UP)
    net = mx.sym.Convolution(net, name="conv1", num_filter=96, kernel=(11, 11), stride=(4, 4))
    net = layers.by_column(net, lambda column: _pool(layers.lrn(column)))
    net = _relu(net)

    # stage 2: -> 256x13x13
    net = mx.sym.Convolution(
        net, name="conv2", num_filter=256, kernel=(5, 5), pad=(2, 2), num_group=2
    )
    net = layers.by_column(_relu(net), layers.lrn)
    net = _pool(layers.normalise_within_maps(net))

    # stage 3: -> 256x6x6
    net = mx.sym.Convolution(net, name="conv3", num_filter=384, kernel=(3, 3), pad=(1, 1))
    net = _relu(net)
    three = dict(kernel=(3, 3), pad=(1, 1), num_group=2)
    net = _relu(mx.sym.Convolution(net, name="conv4", num_filter=384, **three))
    net = mx.sym.Convolution(net, name="conv5", num_filter=256, **three)
    return _relu(_pool(net))


def _relu(net, _layer=None):
    return mx.sym.Activation(net, act_type="relu")


def _pool(net):
    return mx.sym.Pooling(
        net, pool_type="max", kernel=(3, 3), stride=(2, 2), pooling_convention="full"
    )
