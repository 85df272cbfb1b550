"""Starting weights of AlexNet as the paper and Caffe have them."""

import mxnet as mx
import numpy as np
import pytest

import symbols
from common.train.initializers import INITIALIZERS


@pytest.mark.parametrize(
    "name, ones, hidden", [("paper", 1, 0.01), ("caffe", 0.1, 0.005), ("caffenet", 1, 0.005)]
)
def test_biases_and_deviations_are_those_of_the_source(name, ones, hidden):
    biases, deviations = {}, {}
    for parameter in symbols.get_symbol("alexnet").list_arguments()[1:-1]:
        array = mx.nd.full((40, 50), 9)
        INITIALIZERS[name](mx.init.InitDesc(parameter), array)
        layer, _, kind = parameter.partition("_")
        values = array.asnumpy()
        if kind == "bias":
            assert (values == values[0, 0]).all()
            biases[layer] = values[0, 0]
        else:
            assert abs(values.mean()) < 0.1 * values.std()
            deviations[layer] = values.std()
    assert biases == {
        **dict.fromkeys(["conv1", "conv3", "fc3"], 0),
        **dict.fromkeys(["conv2", "conv4", "conv5", "fc1", "fc2"], np.float32(ones)),
    }
    expected = [hidden if layer in ("fc1", "fc2") else 0.01 for layer in deviations]
    assert list(deviations.values()) == pytest.approx(expected, rel=0.1)
