"""for_cpu on networks that are not this project's: the plain graph's outputs, right gradients."""

import os
import re

import numpy as np
import pytest
from conftest import ROOT

import symbols
from common.graph import lowering
from common.graph.graph import Graph
from common.graph.stock_lrn import decompose_lrn
from common.runtime import native
from common.runtime.mxnet import mx

IMAGES = 8


def convolution(net, filters, kernel, name, act_type="relu"):
    net = mx.sym.Convolution(
        net,
        kernel=(kernel, kernel),
        pad=(kernel // 2, kernel // 2),
        num_filter=filters,
        name=name,
    )
    return mx.sym.Activation(net, act_type=act_type, name=f"{name}_{act_type}")


def pooled(net, pool_type="max"):
    return mx.sym.Pooling(net, kernel=(2, 2), stride=(2, 2), pool_type=pool_type)


def classified(net, classes=10):
    net = mx.sym.FullyConnected(mx.sym.Flatten(net), num_hidden=classes, name="last")
    return mx.sym.SoftmaxOutput(net, name="softmax")


def vgg(widths=(64, 128, 256)):
    """Simonyan and Zisserman's plain stack of 3x3 kernels (arXiv 1409.1556), cut short."""
    net = mx.sym.Variable("data")
    for stage, width in enumerate(widths):
        for layer in range(2):
            net = convolution(net, width, 3, f"conv{stage}_{layer}")
        net = pooled(net)
    net = mx.sym.FullyConnected(mx.sym.Flatten(net), num_hidden=64, name="fc")
    return classified(mx.sym.Activation(net, act_type="relu"))


def residual(width=64, blocks=2):
    """He et al.'s blocks (arXiv 1512.03385): what a convolution reads is read again by the sum.

    Smooth: behind a batch norm, one relu whose sign rounding turns moves all gradients before it.
    """
    net = convolution(mx.sym.Variable("data"), width, 3, "stem", "tanh")
    for block in range(blocks):
        inner = convolution(net, width, 3, f"block{block}_a", "tanh")
        same = {"kernel": (3, 3), "pad": (1, 1), "num_filter": width, "no_bias": True}
        inner = mx.sym.Convolution(inner, name=f"block{block}_b", **same)
        inner = mx.sym.BatchNorm(inner, fix_gamma=False, name=f"block{block}_bn")
        net = mx.sym.Activation(inner + net, act_type="tanh")
    return classified(pooled(net, "avg"))


def inception():
    """Szegedy et al.'s module (arXiv 1409.4842) behind an LRN, its towers of 1x1, 3x3 and 5x5."""
    net = convolution(mx.sym.Variable("data"), 64, 5, "stem")
    net = pooled(mx.sym.LRN(net, nsize=5, name="norm"))
    towers = [convolution(net, 32, 1, "one")]
    towers.append(convolution(convolution(net, 48, 1, "three_in"), 64, 3, "three"))
    towers.append(convolution(convolution(net, 48, 1, "five_in"), 64, 5, "five"))
    around = mx.sym.Pooling(net, kernel=(3, 3), stride=(1, 1), pad=(1, 1), pool_type="max")
    towers.append(convolution(around, 32, 1, "pooled"))
    return classified(pooled(mx.sym.concat(*towers, dim=1)))


def caffenet():
    """CaffeNet without its dropout, of which no two runs are alike."""
    graph = Graph(symbols.get_symbol("caffenet", 10))
    for node in graph.nodes:
        if node.op == "Dropout":
            graph.replace(node, node.inputs[0])
    return graph.symbol()


NETWORKS = {
    "vgg": (vgg, (3, 32, 32)),
    "caffenet": (caffenet, (3, 67, 67)),
    "residual": (residual, (3, 32, 32)),
    "inception": (inception, (3, 32, 32)),
}


def run(symbol, values, training):
    """Outputs and, for training, gradients of the weights."""
    shapes = {name: array.shape for name, array in values.items()}
    executor = symbol.simple_bind(mx.cpu(), "write" if training else "null", **shapes)
    executor.copy_params_from(values)
    outputs = executor.forward(is_train=training)[0].asnumpy()
    if not training:
        return outputs, {}
    executor.backward()
    gradients = executor.grad_dict
    return outputs, {name: gradients[name].asnumpy() for name in sorted(gradients)}


def random_values(symbol, shape, seed=0):
    rng = np.random.default_rng(seed)
    shapes, _, _ = symbol.infer_shape(data=shape)
    values = {}
    for name, found in zip(symbol.list_arguments(), shapes):
        scale = 1.0 if name == "data" else (2 / max(1, np.prod(found[1:]))) ** 0.5
        values[name] = mx.nd.array(rng.normal(0, scale, found))
        if name.endswith("gamma"):
            values[name] = mx.nd.ones(found)
    values["softmax_label"] = mx.nd.array(rng.integers(0, 10, shape[0]))
    return values


def close(ours, theirs, share):
    """Whether all differences are within ``share`` of the largest value."""
    return np.abs(ours - theirs).max() <= share * np.abs(theirs).max()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [True, False])
def test_any_network_keeps_its_outputs_and_gradients(name, training):
    network, image_shape = NETWORKS[name]
    plain = network()
    shape = (IMAGES, *image_shape)
    values = random_values(plain, shape)
    lowered = lowering.for_cpu(plain, shape, training)
    assert lowered.list_arguments() == plain.list_arguments()
    assert lowered.list_auxiliary_states() == plain.list_auxiliary_states()
    assert lowered.list_outputs() == plain.list_outputs()
    right = decompose_lrn(plain, shape) if training else plain
    outputs, gradients = run(lowered, values, training)
    expected, by_plain = run(right, values, training)
    assert close(outputs, expected, 2e-5)
    assert gradients.keys() == by_plain.keys()
    for key, gradient in gradients.items():
        assert close(gradient, by_plain[key], 1e-4), key


@pytest.mark.skipif(not native.load(), reason="no C++ compiler")
@pytest.mark.parametrize("name, layers", [("vgg", 5), ("residual", 4), ("inception", 2)])
def test_its_convolutions_are_ours(name, layers):
    network, image_shape = NETWORKS[name]
    lowered = lowering.for_cpu(network(), (IMAGES, *image_shape))
    operators = [node.op for node in Graph(lowered).nodes]
    assert operators.count("_alexnet_convolution") == layers
    assert "LRN" not in operators


def test_without_a_compiler_the_gradients_are_right_all_the_same(monkeypatch):
    monkeypatch.setattr(native, "load", lambda: False)
    plain, shape = inception(), (IMAGES, 3, 32, 32)
    assert lowering.for_cpu(plain, shape).tojson() == decompose_lrn(plain, shape).tojson()
    assert lowering.for_cpu(plain, shape, for_training=False) is plain


def test_the_lines_of_the_page_run(tmp_path):
    with open(os.path.join(ROOT, "docs", "your-own-network.md"), encoding="utf-8") as file:
        (code,) = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)
    path = str(tmp_path / "net-symbol.json")
    symbols.get_symbol("alexnet", 10).save(path)
    found = {}
    exec(code.replace("checkpoints/alexnet-cifar10-symbol.json", path), found)
    batch = mx.io.DataBatch([mx.nd.ones((32, 3, 67, 67))], [mx.nd.zeros(32)])
    found["module"].forward_backward(batch)
    assert np.isfinite(found["module"].get_outputs()[0].asnumpy()).all()
