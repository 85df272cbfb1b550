"""AlexNet as two towers: the paper's two-GPU form, whose weights the article's table counts.

In the paper's figure 2 each GPU holds half of the channels. conv2, conv4 and conv5 read only the
half of their own GPU; conv3 and the fully connected layers read both. On one device that is the
graph of ``alexnet`` with two groups in those three layers. The names are the same, and the three
weights are half as large: 60,954,656 weights, 60,965,224 parameters.

The other differences from the paper are those of ``alexnet``.
"""

from common.runtime.mxnet import mx

from . import alexnet


def get_symbol(num_classes: int = 1000, **options) -> mx.sym.Symbol:
    """As :func:`alexnet.get_symbol`, with its options.

    Caffe's bvlc_alexnet needs ``knorm=1`` (its LRN's k) and ``pooling_convention='full'``: Caffe
    rounds map sizes up, which makes a difference at 224 but not at 227.
    """
    return alexnet.get_symbol(num_classes, num_group=2, **options)
