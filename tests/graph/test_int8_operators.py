"""MXNet's int8 networks by operators of ours: which layers, and that they say the same."""

import os
import shlex
import subprocess

import mxnet as mx
import numpy as np
import pytest
import test_dequantize
from conftest import operators, run_script

import symbols
from common.convert import compare, quantization
from common.evaluate import network
from common.graph.graph import Graph
from common.io import cpus
from common.runtime import native

pytestmark = pytest.mark.skipif(not native.load(), reason="no C++ compiler")
LRN = {"nsize": 5, "alpha": 0.01, "beta": 0.75, "knorm": 2}


def plain_network(name, **options):
    """A network of random weights, and pictures for it."""
    symbol, shape = symbols.get_symbol(name, 10, **options), (4, 3, 67, 67)
    module = mx.mod.Module(symbol)
    module.bind([("data", shape)], [("softmax_label", shape[:1])], for_training=False)
    mx.random.seed(0)
    module.init_params(mx.init.Xavier(factor_type="in", magnitude=2))
    pictures = np.random.RandomState(0).uniform(-100, 150, shape).astype(np.float32)
    return (symbol, *module.get_params()), pictures


def in_int8(plain, pictures):
    return quantization.quantize(*plain, pictures, pictures.shape[1:])


def run(int8, pictures, ours, monkeypatch, devices=1):
    """The operators of a network, ours or MXNet's, and its probabilities."""
    monkeypatch.setattr(cpus, "has_int8", lambda: True)  # else it would be a float32 network
    monkeypatch.setattr(native, "has_int8", lambda: ours)
    module = network.bind(*int8, pictures.shape, [mx.cpu(i) for i in range(devices)])
    said = network.outputs(module, mx.nd.array(pictures)).asnumpy()
    return [*operators(module.symbol).values()], said


def logits(probabilities):
    """What softmax was taken of, but for a constant."""
    logs = np.log(probabilities)
    return logs - logs.mean(axis=1, keepdims=True)


CONVOLUTION, LAYER = "_alexnet_int8_convolution", "_alexnet_int8_fully_connected"


@pytest.mark.parametrize("name", ["alexnet", "alexnet_owt", "alexnet2012", "caffenet"])
def test_a_quantised_network_is_ours_and_as_exact(name, monkeypatch):
    plain, pictures = plain_network(name)
    int8 = in_int8(plain, pictures)
    exact = compare.probabilities(*plain, pictures)
    (ops, ours), (_, mxnets) = (run(int8, pictures, own, monkeypatch) for own in (True, False))
    flatten, softmax = "_contrib_quantized_flatten", "SoftmaxOutput"
    assert ops == [CONVOLUTION] * 5 + [flatten] + [LAYER] * 3 + [softmax]
    ours, mxnets = (np.abs(logits(said) - logits(exact)).mean() for said in (ours, mxnets))
    assert 0 < ours < (0.6 if name in ("alexnet2012", "caffenet") else 1.2) * mxnets  # groups


def small_network(*behind, **options):
    """A network of a convolution, what is behind it, and two more layers; and its pictures."""
    settings = {"kernel": (3, 3), "num_filter": 8, "name": "conv", **options}
    net = mx.sym.Convolution(mx.sym.Variable("data"), **settings)
    net = mx.sym.Activation(net, act_type="relu", name="relu")
    for layer, attrs in behind:
        net = getattr(mx.sym, layer)(net, **attrs)
    net = mx.sym.Convolution(net, kernel=(1, 1), num_filter=4, name="next")
    net = mx.sym.Flatten(mx.sym.Activation(net, act_type="relu"))
    net = mx.sym.FullyConnected(net, num_hidden=4, name="fc")
    net = mx.sym.SoftmaxOutput(net, name="softmax")
    shape = (2, 4, 9, 9)
    pictures = np.random.RandomState(0).uniform(-1, 1, shape).astype(np.float32)
    shapes, _, _ = net.infer_shape(data=shape)
    weights = {
        name: mx.nd.random.uniform(-0.3, 0.3, size)
        for name, size in zip(net.list_arguments(), shapes)
        if name not in ("data", "softmax_label")
    }
    return (net, weights, {}), pictures


MAX = {"kernel": (3, 3), "stride": (2, 2), "pool_type": "max"}


@pytest.mark.parametrize(
    "behind, left",
    [
        ([], 0),
        ([("Pooling", MAX)], 0),
        ([("LRN", LRN)], 0),
        ([("LRN", LRN), ("Pooling", MAX)], 0),
        ([("Pooling", MAX), ("LRN", LRN)], 0),
        ([("Pooling", {**MAX, "pool_type": "avg"})], 1),
        ([("Pooling", {**MAX, "pad": (1, 1)})], 1),
        ([("LRN", {**LRN, "nsize": 3})], 3),
        ([("LRN", {**LRN, "beta": 0.5})], 3),
        ([("LRN", LRN), ("Pooling", {**MAX, "pool_type": "avg"})], 4),
    ],
)
def test_what_follows_a_convolution_is_fused_or_stays(behind, left, monkeypatch):
    plain, pictures = small_network(*behind)
    ops, said = run(in_int8(plain, pictures), pictures, True, monkeypatch)
    assert ops[0] == CONVOLUTION and ops.count(CONVOLUTION) == 2 and ops.count(LAYER) == 1
    assert len(ops) == 5 + left, ops
    assert 0 < np.abs(said - compare.probabilities(*plain, pictures)).max() < 0.01


def assert_exact(plain, pictures, monkeypatch, changed=lambda int8: int8):
    """The operators of its int8 form, which says what the plain network says."""
    ops, said = run(changed(in_int8(plain, pictures)), pictures, True, monkeypatch)
    assert 0 < np.abs(said - compare.probabilities(*plain, pictures)).max() < 0.01
    return ops


def test_other_convolutions_stay_mxnets(monkeypatch):
    ops = assert_exact(*small_network(dilate=(2, 2)), monkeypatch)
    assert "_sg_mkldnn_conv" in ops and CONVOLUTION not in ops  # its uint8 has no known range


def test_layers_without_bias_and_with_hidden_attributes_are_ours(monkeypatch):
    with mx.AttrScope(ctx_group="one"):
        plain, pictures = small_network(no_bias=True, num_filter=3)
    assert assert_exact(plain, pictures, monkeypatch).count(CONVOLUTION) == 2


def test_pictures_that_are_never_below_zero_stay_uint8(monkeypatch):
    plain, pictures = small_network()
    ops = assert_exact(plain, abs(pictures), monkeypatch)
    assert ops[:2] == ["_contrib_quantize_v2", CONVOLUTION]


def also_read(int8, name):
    """The network with another output: the first one of a layer that begins so."""
    symbol, *params = int8
    inner = symbol.get_internals()
    (one, *_) = [output for output in inner.list_outputs() if output.startswith(name)]
    return (mx.sym.Group([symbol, inner[one]]), *params)


@pytest.mark.parametrize(
    "name, behind",
    [
        ("quantized_sg_mkldnn_conv_act_0_output", "_contrib_dequantize"),
        ("sg_mkldnn_conv_act_0_dequantize", "_contrib_dequantize"),
        ("lrn", "LRN"),
        ("pool", "Pooling"),
    ],
)
def test_a_row_of_which_something_else_reads_a_part_stays_mxnets(name, behind, monkeypatch):
    row = ("LRN", {**LRN, "name": "lrn"}), ("Pooling", {**MAX, "name": "pool"})
    plain, pictures = small_network(*row)
    ops = assert_exact(plain, pictures, monkeypatch, lambda int8: also_read(int8, name))
    assert ops[:2] == [CONVOLUTION, "_contrib_dequantize"] and behind in ops


@pytest.mark.parametrize(
    "attrs",
    [{"min_calib_range": "-1"}, {"min_calib_range": "None"}, {"out_type": "int8"}],
)
def test_a_row_that_ends_in_no_uint8_of_a_known_range_stays_mxnets(attrs, monkeypatch):
    def changed(int8):
        graph = Graph(int8[0])
        quantize = [node for node in graph.nodes if node.op == "_contrib_quantize_v2"][1]
        quantize.attrs.update(attrs)
        return (graph.symbol(), *int8[1:])

    plain, pictures = small_network(("LRN", LRN))
    ops = assert_exact(plain, pictures, monkeypatch, changed)
    assert ops[:3] == [CONVOLUTION, "_contrib_dequantize", "LRN"]


@pytest.mark.parametrize("name", ["alexnet145", "scaled-tanh", "residual, relu", "inception"])
def test_other_networks_run_in_part_by_ours(name, monkeypatch):
    plain, pictures = test_dequantize.made(name)
    _, said = run(in_int8(plain, pictures), pictures, True, monkeypatch)
    assert 0 < np.abs(said - compare.probabilities(*plain, pictures)).mean() < 0.01


def test_devices_share_a_batch_that_they_do_not_divide(monkeypatch):
    plain, pictures = plain_network("alexnet")
    int8 = in_int8(plain, pictures)
    _, together = run(int8, pictures[:3], True, monkeypatch)
    _, shared = run(int8, pictures[:3], True, monkeypatch, devices=2)
    assert np.array_equal(together, shared)


@pytest.mark.parametrize("isa", ["ALL", "AVX512_CORE", "AVX2_VNNI", "AVX2", "SSE41"])
def test_ours_are_used_where_the_cpu_has_instructions_for_them(isa):
    code = "from common.runtime import mxnet, native; from common.io import cpus; native.load()"
    code += "; print(native.has_int8(), cpus.has_int8())"
    result = run_script("-c", code, DNNL_MAX_CPU_ISA=isa)
    ours, mxnets = result.stdout.split()
    assert ours == (mxnets if assembler_knows_vnni() else "False"), result.stderr


def assembler_knows_vnni():
    """Whether binutils is 2.36 or later: before, the library has no instructions for int8."""
    command = [*shlex.split(os.environ.get("CXX") or "g++"), "-c", "-x", "assembler", "-"]
    text = "{vex} vpdpbusd %ymm0, %ymm1, %ymm2\n"
    done = subprocess.run([*command, "-o", os.devnull], input=text, text=True, capture_output=True)
    return done.returncode == 0


def test_threads_and_batches_change_nothing(monkeypatch):
    plain, pictures = plain_network("alexnet")
    int8 = in_int8(plain, pictures)
    _, together = run(int8, pictures, True, monkeypatch)
    for picture, said in zip(pictures, together):
        assert np.array_equal(run(int8, picture[None], True, monkeypatch)[1][0], said)
