"""AlexNet in the two-GPU form of 2012, whose weights the article's parameter table counts.

Paper: A. Krizhevsky, I. Sutskever, G. Hinton, "ImageNet Classification with Deep Convolutional
Neural Networks", NIPS 2012, figure 2: each GPU holds half of the channels, and conv2, conv4 and
conv5 read only their own GPU's half (conv3 and the fully connected layers read both). On one
device that is the graph of ``alexnet`` with two groups in those three layers, so the names are the
same and the three weights half as large: 60,954,656 weights, 60,965,224 parameters.

What differs from the paper is said in ``alexnet``, but for the towers. Released weights need an
option or two: Caffe's bvlc_alexnet ``knorm=1`` (its LRN's k) and ``pooling_convention='full'``
(Caffe rounds map sizes up, which shows at 224 but not at 227).

How its numbers are checked: the layer table (``python -m symbols alexnet2012``) meets the
article's, row by row; tests/graph/test_gradients.py compares outputs and gradients with numpy.
"""

from common.runtime.mxnet import mx
from symbols import alexnet


def get_symbol(
    num_classes: int = 1000, knorm: float = 2, pooling_convention: str = "valid"
) -> mx.sym.Symbol:
    """The network on ``data`` (N, 3, 227, 227) and ``softmax_label`` (N,); see ``alexnet``."""
    return alexnet.get_symbol(
        num_classes, num_group=2, knorm=knorm, pooling_convention=pooling_convention
    )
