"""int8 networks in float32: the plain network with rounded weights, and nothing of int8 is left."""

import mxnet as mx
import numpy as np
import pytest
from conftest import operators
from test_lowering import classified, inception, random_values, residual

import symbols
from common.convert import compare, quantization
from common.evaluate import network
from common.graph import dequantize
from common.graph.graph import Graph
from common.io import cpus
from symbols import alexnet


def residual_with_relu():
    """Convolutions that MXNet fuses with a batch norm, a sum and a relu; a lone batch norm."""
    same = {"kernel": (3, 3), "pad": (1, 1), "num_filter": 16, "no_bias": True}
    net = mx.sym.Convolution(mx.sym.Variable("data"), name="stem", **same)
    for block in range(2):
        inner = mx.sym.Convolution(net, name=f"conv{block}", **same)
        inner = mx.sym.BatchNorm(inner, fix_gamma=False, name=f"bn{block}")
        net = mx.sym.Activation(inner + net, act_type="relu")
    net = mx.sym.Pooling(net, kernel=(2, 2), stride=(2, 2), pool_type="avg")
    return classified(mx.sym.BatchNorm(net, fix_gamma=False, name="last_bn"))


def option(network="alexnet", **options):
    return lambda: symbols.get_symbol(network, 10, **options)


NETWORKS = {
    "lenet": (option("lenet"), (1, 32, 32)),
    "alexnet": (option(), (3, 67, 67)),
    "alexnet145": (option("alexnet145"), (3, 67, 67)),
    "scaled-tanh": (option(activation="scaled-tanh"), (3, 67, 67)),
    "prelu": (option(activation="prelu"), (3, 67, 67)),
    "bn-before": (option(normalization="bn-before"), (3, 67, 67)),
    "residual": (residual, (3, 16, 16)),
    "residual, relu": (residual_with_relu, (3, 16, 16)),
    "inception": (inception, (3, 16, 16)),
}


def made(name):
    """A network of random weights, (symbol, arg_params, aux_params), and 8 images."""
    build, shape = NETWORKS[name]
    symbol = build()
    values = random_values(symbol, (8, *shape))
    images = values.pop("data").asnumpy()
    del values["softmax_label"]
    _, _, shapes = symbol.infer_shape(data=images.shape)
    states = {
        state: mx.nd.ones(found) if state.endswith("var") else mx.nd.zeros(found)
        for state, found in zip(symbol.list_auxiliary_states(), shapes)
    }
    return (symbol, values, states), images


def quantized(plain, images, but=()):
    """MXNet's int8 form, save for some of its fused layers."""
    return mx.contrib.quantization.quantize_model_mkldnn(
        *plain,
        calib_mode="naive",
        calib_data=quantization._Batches(images, images.shape[1:]),
        quantized_dtype="auto",
        excluded_sym_names=list(but),
        logger=None,
    )


@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_plain_network_with_rounded_weights(name, excluded, monkeypatch):
    monkeypatch.setattr(alexnet, "HIDDEN", 32)
    monkeypatch.setattr(cpus, "has_int8", lambda: False)
    (symbol, weights, states), images = made(name)
    fused = symbol.get_backend_symbol("MKLDNN_QUANTIZE")
    names = [node.name for node in Graph(fused).nodes if node.op.startswith("_sg_")]
    int8 = quantized((symbol, weights, states), images, names[1:2] if excluded else ())
    assert dequantize.needed(int8[0])
    float32 = dequantize.dequantized(*int8[:2])
    assert not [
        op for op in operators(float32[0]).values() if "quantize" in op or op.startswith("_sg_")
    ]

    rounded = {}
    for weight, array in weights.items():
        if f"{weight}_quantize" in int8[1]:
            step = np.abs(array.asnumpy()).max() / 127
            rounded[weight] = mx.nd.array(np.rint(array.asnumpy() / step) * step)
    assert rounded
    expected = compare.probabilities(symbol, {**weights, **rounded}, states, images)
    said = compare.probabilities(*float32, states, images)
    assert np.abs(said - expected).max() < 1e-5


def test_only_a_cpu_without_vnni_runs_float32_and_a_variable_keeps_int8(monkeypatch):
    plain, images = made("lenet")
    int8 = quantized(plain, images)
    monkeypatch.setattr(cpus, "has_int8", lambda: True)
    assert not dequantize.needed(int8[0])
    monkeypatch.setattr(cpus, "has_int8", lambda: False)
    assert dequantize.needed(int8[0]) and not dequantize.needed(plain[0])
    said = []
    for keep in ("0", "1"):
        monkeypatch.setenv(dequantize.KEEP, keep)
        module = network.bind(*int8, images.shape, [mx.cpu()])
        assert ("_sg_mkldnn_conv" in operators(module.symbol).values()) == (keep == "1")
        said.append(network.outputs(module, mx.nd.array(images)).asnumpy())
    assert 0 < np.abs(said[0] - said[1]).max() < 0.02  # .005 when it was measured


@pytest.mark.parametrize("images", [1, 8])
def test_fully_connected_layers_read_the_integers(images, monkeypatch):
    monkeypatch.setattr(alexnet, "HIDDEN", 64)
    monkeypatch.setattr(cpus, "has_int8", lambda: False)
    plain, pictures = made("alexnet")
    int8 = quantized(plain, pictures)
    module = network.bind(*int8, (images, *pictures.shape[1:]), [mx.cpu()])
    read = {name: array.dtype for name, array in module.get_params()[0].items()}
    narrow = [name for name, dtype in read.items() if dtype == np.int8]
    assert narrow == [f"fc{i}_weight_quantize" for i in (1, 2, 3)]
    data = mx.nd.array(pictures[:1]).repeat(images, axis=0)
    said = network.outputs(module, data).asnumpy()
    right = compare.probabilities(*dequantize.dequantized(*int8[:2]), plain[2], data.asnumpy())
    assert np.abs(said - right).max() < 1e-5


def test_an_operator_without_a_float32_form_keeps_int8(monkeypatch):
    monkeypatch.setattr(cpus, "has_int8", lambda: False)
    plain, images = made("inception")
    int8, *_ = quantized(plain, images)
    assert dequantize.needed(int8)
    monkeypatch.delitem(dequantize._FLOAT32, "_contrib_quantized_concat")
    assert not dequantize.needed(int8)
