"""CaffeNet: Caffe's reference network, bvlc_reference_caffenet, and those fine-tuned from it.

Source: the repository BVLC/caffe, models/bvlc_reference_caffenet. docs/which-alexnet.md gives its
lines. It is ``alexnet2012`` with pooling before LRN, k = 1 in LRN, and map sizes rounded up. The
number of weights is the same.
"""

from common.runtime.mxnet import mx

from . import alexnet2012


def get_symbol(num_classes: int = 1000) -> mx.sym.Symbol:
    """As :func:`alexnet.get_symbol`, on (N, 3, 227, 227)."""
    return alexnet2012.get_symbol(num_classes, knorm=1, pooling_convention="full", pool_first=True)
