"""import_weights.py: ONNX's networks as checkpoints, against OpenCV's reading."""

import os

import bvlc_alexnet
import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import run_script
from imports import (
    CLASSES,
    MEAN,
    SIDE,
    assert_damage_is_refused,
    assert_refused,
    assert_same,
    guesses,
    run,
)

import symbols
from common.checkpoint import store
from common.checkpoint.config import load_config
from common.convert import alexnet_import, onnx_reader, onnx_writer


@pytest.mark.parametrize("opset", [3, 7, 12])
def test_onnx_of_any_age_gives_the_same_weights(opset, caffe, imported, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = str(tmp_path / "x.onnx")
    onnx.save(bvlc_alexnet.onnx_model(caffe.arrays, SIDE, opset), path)
    assert_same(imported[0], onnx_reader.read(path))


@pytest.mark.parametrize("k, words", [(2, None), (float("nan"), "norm1 has knorm nan, not 2")])
def test_an_onnx_file_says_lrns_k(k, words, caffe, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    model = bvlc_alexnet.onnx_model(caffe.arrays, SIDE, 7)
    for node in model.graph.node:
        if node.op_type == "LRN":
            node.attribute.append(onnx.helper.make_attribute("bias", float(k)))
    onnx.save(model, str(tmp_path / "x.onnx"))
    if words:
        assert_refused(monkeypatch, tmp_path, [tmp_path / "x.onnx"], words)
    else:
        run(monkeypatch, tmp_path / "x.onnx", "--out-prefix", tmp_path / "out")
        attrs = mx.sym.load(str(tmp_path / "out-symbol.json")).attr_dict()
        assert [attrs[f"lrn{i}"]["knorm"] for i in range(2)] == ["2", "2"]


def test_a_file_of_export_onnx_is_refused_for_its_colours(caffe, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    model = bvlc_alexnet.onnx_model(caffe.arrays, SIDE, 12)
    config = {"args": {name: [3] for name in ("image_shape", "resize", "rgb_mean", "rgb_std")}}
    for key, value in onnx_writer.metadata({**config, "classes": ["x"]}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(tmp_path / "x.onnx"))
    assert_refused(monkeypatch, tmp_path, [tmp_path / "x.onnx"], "takes R, G, B")


def test_a_network_of_rgb_pictures_is_taken_as_the_flags_say(caffe, tmp_path, monkeypatch, capsys):
    onnx = pytest.importorskip("onnx")
    path, picture = str(tmp_path / "x.onnx"), cv2.imread(str(caffe.picture))
    onnx.save(bvlc_alexnet.onnx_model(caffe.arrays, SIDE, 12), path)
    network = cv2.dnn.readNetFromONNX(path)
    mean, std = np.float32([123, 117, 104]), np.float32([2, 1, 0.5])
    planes = (picture[:, :, ::-1] - mean) / std
    network.setInput(np.ascontiguousarray(planes.transpose(2, 0, 1)[None]))
    expected = network.forward()[0]
    said = []
    for order in ("RGB", "BGR"):
        flags = ["--channel-order", order, "--mean", MEAN, "--std", "2,1,.5", "--resize", SIDE]
        run(monkeypatch, path, *flags, "--out-prefix", tmp_path / order)
        line = f"input: {order}; of R, G, B: mean 123,117,104, std 2,1,0.5 (--channel-order"
        assert line in capsys.readouterr().out
        found = guesses(str(tmp_path / order), picture)
        said.append([found[str(i)] for i in range(CLASSES)])
    assert np.abs(said[0] - expected).max() < 1e-5 < 0.01 < np.abs(said[1] - expected).max()


def without_softmax(model):
    last = model.graph.node.pop()
    model.graph.output[0].name = last.input[0]


def with_matmul(model):
    from onnx import helper

    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type == "Gemm":
            *factors, bias = node.input
            product = f"{node.output[0]}_product"
            model.graph.node.append(helper.make_node("MatMul", factors, [product]))
            node = helper.make_node("Add", [product, bias], list(node.output))
        model.graph.node.append(node)


@pytest.mark.parametrize("change", [without_softmax, with_matmul])
def test_onnx_of_other_nodes_gives_the_same_weights(change, caffe, imported, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = bvlc_alexnet.onnx_model(caffe.arrays, SIDE, 12)
    change(model)
    onnx.save(model, str(tmp_path / "x.onnx"))
    assert_same(imported[0], onnx_reader.read(str(tmp_path / "x.onnx")))


def test_weights_in_a_second_file_are_read(caffe, imported, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    path, second = tmp_path / "x.onnx", tmp_path / "x.data"
    model = bvlc_alexnet.onnx_model(caffe.arrays, SIDE, 7)
    onnx.save(model, str(path), save_as_external_data=True, location="x.data", size_threshold=100)
    monkeypatch.chdir(tmp_path)
    assert_same(imported[0], onnx_reader.read("x.onnx"))
    second.write_bytes(second.read_bytes()[:-100])
    assert_refused(monkeypatch, tmp_path, [path], "x.onnx: is damaged")
    second.unlink()
    words = "x.onnx: has its weights in x.data, which is not beside it"
    assert_refused(monkeypatch, tmp_path, [path], words)


def test_an_open_size_is_refused_with_a_remedy_that_works(caffe, imported, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model = bvlc_alexnet.onnx_model(caffe.arrays, SIDE, 12)
    for size, name in zip(model.graph.input[0].type.tensor_type.shape.dim, "NCHW"):
        if name in "HW":
            size.dim_param = name
    onnx.save(model, str(tmp_path / "x.onnx"))
    command = [tmp_path / "x.onnx"]
    assert_refused(monkeypatch, tmp_path, command, "x.onnx: takes images of any size")
    fix = ["-m", "onnxruntime.tools.make_dynamic_shape_fixed", "--input_name", "data"]
    shape = ["--input_shape", f"1,3,{SIDE},{SIDE}"]
    fixed = run_script(*fix, *shape, tmp_path / "x.onnx", tmp_path / "fixed.onnx")
    assert fixed.returncode == 0, fixed.stderr
    assert_same(imported[0], onnx_reader.read(str(tmp_path / "fixed.onnx")))


@pytest.mark.parametrize("opset", [3, 12])
def test_caffenets_onnx_gives_the_same_weights(opset, caffenet, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = bvlc_alexnet.onnx_model(caffenet[0].arrays, SIDE, opset, caffenet=True)
    onnx.save(model, str(tmp_path / "x.onnx"))
    assert_same(caffenet[1], onnx_reader.read(str(tmp_path / "x.onnx")))


@pytest.fixture(scope="module")
def one_tower():
    """Weight and bias of each layer of torchvision's AlexNet, at random, for images of 64x64."""
    shapes = [(64, 3, 11, 11), (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3)]
    shapes += [(256, 256, 3, 3), (4096, 256), (4096, 4096), (CLASSES, 4096)]
    rng = np.random.default_rng(0)
    sizes = [np.float32(np.sqrt(2 / np.prod(shape[1:]))) for shape in shapes]
    return [
        (rng.standard_normal(shape, np.float32) * size, rng.standard_normal(shape[0], np.float32))
        for shape, size in zip(shapes, sizes)
    ]


@pytest.mark.parametrize("exporter", ["old", "new"])
def test_torchvisions_onnx_is_alexnet_owt(exporter, one_tower, tmp_path, monkeypatch, capsys):
    onnx = pytest.importorskip("onnx")
    model = bvlc_alexnet.torchvisions_onnx(one_tower, SIDE, exporter)
    second = {"save_as_external_data": True, "location": "x.onnx.data"} if exporter == "new" else {}
    onnx.save(model, str(tmp_path / "x.onnx"), **second)
    run(monkeypatch, tmp_path / "x.onnx", "--out-prefix", tmp_path / "out")
    out = capsys.readouterr().out
    assert "input: RGB; of R, G, B: mean 123.675,116.28,103.53, std 58.395,57.12,57.375" in out
    symbol, weights, _ = store.load(str(tmp_path / "out"), 0)
    assert symbol.tojson() == symbols.get_symbol("alexnet_owt", CLASSES).tojson()
    names = [name for name in symbol.list_arguments() if name.endswith(("_weight", "_bias"))]
    for name, array in zip(names, (array for layer in one_tower for array in layer)):
        assert np.array_equal(weights[name].asnumpy(), array), name


def insert(model, after, **node):
    """Put a node behind that of the operator ``after`` which is the first of its kind."""
    from onnx import helper

    at = next(i for i, one in enumerate(model.graph.node) if one.op_type == after)
    output = model.graph.node[at].output[0]
    for one in model.graph.node:
        one.input[:] = ["between" if name == output else name for name in one.input]
    inputs = [output, *node.pop("more")]
    model.graph.node.insert(at + 1, helper.make_node(node.pop("op"), inputs, ["between"], **node))


@pytest.mark.parametrize("caffes", [False, True])
def test_other_networks_in_onnx_are_refused_by_the_layer_that_differs(
    caffes, caffe, one_tower, tmp_path, monkeypatch
):
    onnx = pytest.importorskip("onnx")
    statistics = [onnx.numpy_helper.from_array(np.ones(96 if caffes else 64, "f4"), "ones")]
    step = [onnx.numpy_helper.from_array(np.float32(0.1), "step")]
    for node, constants, words in (
        (
            {"op": "BatchNormalization", "more": ["ones"] * 4},
            statistics,
            "is BatchNorm: .* such as AlexNet-BN",
        ),
        ({"op": "QuantizeLinear", "more": ["step"]}, step, "has QuantizeLinear .*an int8 network"),
    ):
        if caffes:
            model = bvlc_alexnet.onnx_model(caffe.arrays, SIDE, 12)
        else:
            model = bvlc_alexnet.torchvisions_onnx(one_tower, SIDE, "old")
        insert(model, "Conv", **node)
        model.graph.initializer.extend(constants)
        onnx.save(model, str(tmp_path / "x.onnx"))
        assert_refused(monkeypatch, tmp_path, [tmp_path / "x.onnx"], f"x.onnx: .*{words}")


@pytest.fixture
def light():
    """The path of a bvlc_alexnet without weights: all are .02, and are made by ConstantOfShape."""
    onnx = pytest.importorskip("onnx")
    data = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", "light")
    path = os.path.join(data, "light_bvlc_alexnet.onnx")
    if not os.path.exists(path):
        pytest.skip("this onnx package has no light models")
    return path


def test_the_light_model_of_the_onnx_package(light):
    source = onnx_reader.read(light)
    symbol = alexnet_import.build(source, symbols.get_symbol)
    attrs = symbol.attr_dict()
    conventions = [attrs[f"pooling{i}"].get("pooling_convention") for i in range(3)]
    assert conventions == [None, None, "full"]  # its third pooling alone is padded at the end
    assert [attrs[f"lrn{i}"]["knorm"] for i in range(2)] == ["1", "1"]
    weights = alexnet_import.weights(source, symbol)
    assert weights["fc3_weight"].shape == (1000, 4096)
    assert all((array.asnumpy() == np.float32(0.02)).all() for array in weights.values())


def test_the_light_model_becomes_a_checkpoint(light, tmp_path, monkeypatch, capsys):
    """With smaller weights: with .02 its logits are 1e20, and any rounding decides the softmax."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(light)
    shapes = {value.name: numpy_helper.to_array(value) for value in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            inputs = np.prod(shapes[node.input[0]][1:])
            node.attribute[0].t.float_data[0] = 1 / inputs  # the mean of what a layer reads
    onnx.save(model, str(tmp_path / "x.onnx"))
    run(monkeypatch, tmp_path / "x.onnx", "--out-prefix", tmp_path / "light")
    assert "1000 classes, images 3,224,224" in capsys.readouterr().out
    _, weights, _ = store.load(str(tmp_path / "light"), 0)
    assert (weights["fc3_weight"].asnumpy() == np.float32(1 / 4096)).all()
    assert load_config(str(tmp_path / "light"))["args"]["image_shape"] == [3, 224, 224]


@pytest.mark.slow
def test_damage_ends_in_one_line_or_in_a_network_that_opencv_agrees_with(
    caffe, tmp_path, monkeypatch, capfd
):
    pytest.importorskip("onnx")
    content = bvlc_alexnet.onnx_model(caffe.arrays, SIDE, 7).SerializeToString()
    telling = rb"(?s)(kernel_shape|pads|fc\d|conv\d).{9}"
    path = tmp_path / "x.onnx"
    assert_damage_is_refused(path, [path], content, telling, monkeypatch, capfd)
