"""Starting weights by ``--initializer``: MXNet's own, and those of the 2012 paper and of Caffe."""

import re

from common.runtime.mxnet import mx

_BIASED = r"conv[245]_bias|fc[12]_bias"


class _ByName(mx.init.Initializer):
    """N(0, .01), or N(0, ``std``) where ``other`` is the weight's name; ``bias`` where _BIASED is.

    MXNet's Mixed cannot set a bias: every stock initializer turns ``*_bias`` into zeros. The rest,
    such as batch norm's, begins as MXNet's initializers have it.
    """

    def __init__(self, bias, other="", std=0.01):
        super().__init__(bias=bias, other=other, std=std)
        self._bias, self._other, self._std = bias, other, std

    def _init_bias(self, name, array):
        array[:] = self._bias if re.fullmatch(_BIASED, name) else 0

    def _init_weight(self, name, array):
        mx.random.normal(0, self._std if re.fullmatch(self._other, name) else 0.01, out=array)


# MXNet's remark in its own example holds: AlexNet does not learn from Xavier's scale at lr 0.01.
INITIALIZERS = {
    "normal": mx.init.Normal(0.01),
    "xavier": mx.init.Xavier(),
    "msra": mx.init.MSRAPrelu(),
    "orthogonal": mx.init.Orthogonal(),
    "uniform": mx.init.Uniform(),
    # Krizhevsky et al. 2012, section 5: N(0, .01); biases 1 in conv2, 4, 5 and the hidden FC.
    "paper": _ByName(1.0),
    # Its source, layers/layers-145.cfg: the same, but .03 in conv3, conv4 and conv5.
    "source": _ByName(1.0, r"conv[345]_weight", 0.03),
    # Caffe's bvlc_reference_caffenet: the paper's biases, hidden FC .005.
    "caffenet": _ByName(1.0, r"fc[12]_weight", 0.005),
    # Its bvlc_alexnet: biases .1 in the same layers ("1 gave a flat loss"), hidden FC .005.
    "caffe": _ByName(0.1, r"fc[12]_weight", 0.005),
}
