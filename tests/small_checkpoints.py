"""A small network of random weights as a checkpoint, made for the tests of prediction."""

import mxnet as mx
import numpy as np
from pictures import photo

import symbols
from common.checkpoint import store
from common.checkpoint.config import save_config
from common.convert import quantization

SETTINGS = {
    "image_shape": [3, 32, 32],
    "num_classes": 7,
    "resize": 36,
    "rgb_mean": [120.0, 110.0, 100.0],
    "rgb_std": [60.0, 50.0, 40.0],
}


def save_lenet(prefix, classes, channels=3):
    """LeNet with random weights, as a checkpoint of number 1; the weights as arrays."""
    symbol = symbols.get_symbol("lenet", len(classes))
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, channels, 32, 32))], [("softmax_label", (1,))])
    mx.random.seed(1)
    module.init_params(mx.init.Xavier(magnitude=6))
    weights = module.get_params()
    settings = {**SETTINGS, "num_classes": len(classes), "image_shape": [channels, 32, 32]}
    if channels == 1:
        settings.update(rgb_mean=[120.0], rgb_std=[60.0])
    save_config(prefix, settings, classes)
    store.save(prefix, 1, symbol, *weights)
    return {name: value.asnumpy() for name, value in weights[0].items()}


def save_int8(prefix, source, classes):
    """The int8 form of :func:`save_lenet`'s checkpoint ``source``."""
    images = [np.float32(photo(32, 32, i).transpose(2, 0, 1)) / 60 - 2 for i in range(16)]
    network = quantization.quantize(*store.load(source, 1), images, SETTINGS["image_shape"])
    save_config(prefix, {**SETTINGS, "num_classes": len(classes)}, classes, int8={})
    store.save(prefix, 1, *network)
