"""import_weights.py: Caffe's and ONNX's bvlc_alexnet as checkpoints, against OpenCV's reading."""

import os
import re
from types import SimpleNamespace

import bvlc_alexnet
import cv2
import mutations
import mxnet as mx
import numpy as np
import pytest
from conftest import run_script, write_records
from pictures import photo

import import_weights
import symbols
from common import cli
from common.checkpoint import store
from common.checkpoint.config import load_config
from common.convert import alexnet_import, caffe_reader, onnx_reader, onnx_writer
from common.evaluate.classifier import Classifier

CLASSES, SIDE, FEATURES = 10, 64, 256  # at 64 it matters that Caffe rounds map sizes up
MEAN = "123,117,104"


@pytest.fixture(scope="module")
def caffe(tmp_path_factory):
    """A Caffe model with random weights: its files, arrays and class names, and a picture."""
    folder = tmp_path_factory.mktemp("caffe")
    arrays = bvlc_alexnet.weights(CLASSES, FEATURES)
    made = SimpleNamespace(
        folder=folder,
        arrays=arrays,
        prototxt=folder / "deploy.prototxt",
        model=folder / "x.caffemodel",
        names=folder / "names.txt",
        picture=folder / "picture.png",
    )
    made.prototxt.write_text(bvlc_alexnet.prototxt(CLASSES, SIDE))
    made.model.write_bytes(bvlc_alexnet.caffemodel(arrays))
    made.names.write_text("".join(f"n0000000{i} name {i}, synonym\n" for i in range(CLASSES)))
    cv2.imwrite(str(made.picture), photo(SIDE, SIDE))
    return made


@pytest.fixture(scope="module")
def imported(caffe, tmp_path_factory):
    """The prefix of what the script made of the Caffe model, and what it said."""
    prefix = str(tmp_path_factory.mktemp("imported") / "bvlc")
    more = ["--class-names", caffe.names, "--mean", MEAN, "--resize", SIDE]
    result = run_script("import_weights.py", *flags(caffe), "--out-prefix", prefix, *more)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    return prefix, result.stdout


def flags(caffe, prototxt=None, model=None):
    return [prototxt or caffe.prototxt, model or caffe.model]


def run(monkeypatch, *command):
    monkeypatch.setattr("sys.argv", ["import_weights.py", *map(str, command)])
    import_weights.main()


def assert_refused(monkeypatch, folder, command, words):
    """One line that matches ``words``, and nothing written."""
    out = folder / "new" / "out"
    with pytest.raises(cli.UserError, match=words) as refused:
        run(monkeypatch, *command, "--out-prefix", out)
    assert "\n" not in str(refused.value)
    assert not out.parent.exists()


def guesses(prefix, picture):
    """Class -> probability, of a checkpoint on a BGR picture."""
    (names,), (probabilities,) = Classifier(prefix, 0).predict([picture], CLASSES)
    return dict(zip(names, probabilities))


def test_a_picture_gets_the_probabilities_that_caffe_gives_it(caffe, imported):
    picture = cv2.imread(str(caffe.picture))
    network = cv2.dnn.readNetFromCaffe(str(caffe.prototxt), str(caffe.model))
    network.setInput(cv2.dnn.blobFromImage(picture, mean=(104, 117, 123)))  # B, G, R
    expected = network.forward()[0]
    said = guesses(imported[0], picture)
    assert list(said) == [f"name {i}" for i in np.argsort(-expected)]
    largest = max(abs(said[f"name {i}"] - expected[i]) for i in range(CLASSES))
    print(f"the importer: {imported[1].splitlines()[2]}; a photograph: {largest:.1e}")
    assert largest < 1e-5 and max(expected) > 0.2


def test_the_graph_is_our_own_with_caffes_lrn_and_pooling(imported):
    symbol, arg_params, aux_params = mx.model.load_checkpoint(imported[0], 0)
    ours = symbols.get_symbol("alexnet2012", CLASSES, knorm=1, pooling_convention="full")
    assert symbol.tojson() == ours.tojson()
    assert sorted(arg_params) == sorted(set(ours.list_arguments()) - {"data", "softmax_label"})
    assert aux_params == {}
    store.verify(imported[0], 0)


def test_predict_and_score_take_it_as_any_checkpoint(caffe, imported, tmp_path):
    model = ["--model-prefix", imported[0], "--load-epoch", 0]
    best = next(iter(guesses(imported[0], cv2.imread(str(caffe.picture)))))
    named = run_script("predict.py", *model, caffe.picture)
    assert named.returncode == 0 and named.stdout.split("%  ")[1].startswith(best), named.stderr
    records = write_records(tmp_path / "val", [photo(SIDE, SIDE)], [int(best[-1])])
    scored = run_script("score.py", *model, "--data-val", records)
    assert scored.returncode == 0 and "top-1 100.00%" in scored.stdout, scored.stderr


def test_files_of_2013_give_the_same_weights(caffe, imported, tmp_path):
    text = caffe.prototxt.read_text().replace("layer {", "layers {")
    text = re.sub(r"(?s)layers \{ name: \"data\".*?\} \} \}", 'input: "data"', text)
    sizes = "".join(f"input_dim: {n}\n" for n in (10, 3, SIDE, SIDE))
    for kind in ("Convolution", "ReLU", "LRN", "Pooling", "Inner_Product", "Dropout", "Softmax"):
        text = text.replace(f'"{kind.replace("_", "")}"', kind.upper())
    files = str(tmp_path / "old.prototxt"), str(tmp_path / "old.caffemodel")
    (tmp_path / "old.prototxt").write_text(sizes + text)
    (tmp_path / "old.caffemodel").write_bytes(bvlc_alexnet.caffemodel(caffe.arrays, legacy=True))
    assert_same(imported[0], caffe_reader.read(*files))


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


@pytest.fixture(scope="module")
def caffenet(caffe, tmp_path_factory):
    """The prefix of CaffeNet with the weights of ``caffe``, and the files that it was made of."""
    folder = tmp_path_factory.mktemp("caffenet")
    (folder / "deploy.prototxt").write_text(bvlc_alexnet.prototxt(CLASSES, SIDE, caffenet=True))
    prefix = str(folder / "caffenet")
    command = flags(caffe, folder / "deploy.prototxt")
    more = ["--mean", MEAN, "--resize", SIDE]
    result = run_script("import_weights.py", *command, "--out-prefix", prefix, *more)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    return prefix, command


def test_caffenet_is_a_network_of_its_own_with_the_probabilities_of_caffe(caffe, caffenet):
    prefix, (prototxt, _) = caffenet
    symbol, _, _ = store.load(prefix, 0)
    assert symbol.tojson() == symbols.get_symbol("caffenet", CLASSES).tojson()
    assert load_config(prefix)["args"]["network"] == "caffenet"
    picture = cv2.imread(str(caffe.picture))
    network = cv2.dnn.readNetFromCaffe(str(prototxt), str(caffe.model))
    network.setInput(cv2.dnn.blobFromImage(picture, mean=(104, 117, 123)))
    expected, found = network.forward()[0], guesses(prefix, picture)
    said = [found[str(i)] for i in range(CLASSES)]
    assert np.abs(said - expected).max() < 1e-5 and max(expected) > 0.2


@pytest.mark.parametrize("opset", [3, 12])
def test_caffenets_onnx_gives_the_same_weights(opset, caffe, caffenet, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = bvlc_alexnet.onnx_model(caffe.arrays, SIDE, opset, caffenet=True)
    onnx.save(model, str(tmp_path / "x.onnx"))
    assert_same(caffenet[0], onnx_reader.read(str(tmp_path / "x.onnx")))


def test_the_file_of_training_gives_the_same_weights(caffe, imported, caffenet, tmp_path):
    for prefix, is_caffenet in ((imported[0], False), (caffenet[0], True)):
        text = bvlc_alexnet.prototxt(CLASSES, SIDE, caffenet=is_caffenet)
        path = tmp_path / "train_val.prototxt"
        path.write_text(bvlc_alexnet.as_train_val(text, SIDE))
        assert_same(prefix, caffe_reader.read(str(caffe.model), str(path)))  # in any order


def assert_same(prefix, source):
    """The checkpoint is what ``source`` gives, to the bit, and OpenCV's reading of it agrees."""
    symbol, weights, _ = store.load(prefix, 0)
    again = alexnet_import.build(source, symbols.get_symbol)
    found = alexnet_import.weights(source, again)
    assert again.tojson() == symbol.tojson() and found.keys() == weights.keys()
    assert all(np.array_equal(found[name].asnumpy(), weights[name].asnumpy()) for name in found)
    print(f"{source.files[-1]}: {alexnet_import.difference(again, found, source, [120] * 3):.1e}")


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
            "BatchNorm.* where alexnet",
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


DIFFERS = r"x\.caffemodel in OpenCV: differs from the checkpoint by .*nothing is written"


@pytest.mark.parametrize(
    "change, words",
    [
        (
            ("num_output: 256 pad: 2", "num_output: 255 pad: 2"),
            "layer conv2: OpenCV cannot make it",
        ),
        (("local_size: 5", "local_size: 3"), "norm1 has nsize 3, not 5"),
        (("alpha: 0.0001", "alpha: 0.000101"), "norm1 has alpha 0.000101, not 0.0001"),
        (("beta: 0.75", "beta: 0.7"), "norm1 has beta 0.7, not 0.75"),
        (("lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }", ""), "norm1 has alpha 1, not"),
        (("local_size: 5", "local_size: 5 k: 2"), "x.prototxt: has an LRN with k 2, not 1"),
        (("local_size: 5", "local_size: 5 norm_region: WITHIN_CHANNEL"), DIFFERS),
        (("pool: MAX", "pool: AVE"), DIFFERS),
        (("pool: MAX", "pool: MAX pad: 1"), "OpenCV cannot run it on images of 3x64x64"),
        (("stride: 4", "stride: 3"), "OpenCV cannot run it"),
        (("num_output: 4096", "num_output: 512"), "layer fc6: OpenCV cannot make it"),
        (("num_output: 4096", "num_output: 4096 bias_term: false"), DIFFERS),
        (("kernel_size: 11", "kernel_size: 11 kernel_size: 9"), "OpenCV cannot run it"),
        (('type: "ReLU"', 'type: "PReLU"'), "layer relu1: OpenCV cannot make it"),
        (('type: "ReLU"', 'type: "TanH"'), "relu1 is TanH where alexnet2012 has Activation"),
        (('type: "Input"', 'type: "Data"'), "layer data: OpenCV cannot make it"),
        (('bottom: "fc6" top: "fc7"', 'bottom: "pool5" top: "fc7"'), "OpenCV cannot run it"),
        (("dim: 64 dim: 64", "dim: 99 dim: 99"), "layer fc6 has weights of 4096x256.*4096x1024"),
        (("dim: 64 dim: 64", "dim: 20 dim: 20"), "images of 3x20x20 are too small"),
        (("dim: 3 dim: 64", "dim: 1 dim: 64"), "conv1 has weights of 96x3x11x11.* 96x1x11x11"),
        (("dim: 64 dim: 64", "dim: 64"), "give deploy.prototxt"),
        (("dim: 64 dim: 64", "dim: 64 dim: 64 }"), "is not a prototxt"),
    ],
)
def test_another_network_is_refused(change, words, caffe, tmp_path, monkeypatch):
    text = caffe.prototxt.read_text()
    assert change[0] in text
    (tmp_path / "x.prototxt").write_text(text.replace(*change, 1))
    assert_refused(monkeypatch, tmp_path, flags(caffe, tmp_path / "x.prototxt"), words)


@pytest.mark.parametrize(
    "change",
    [
        ("kernel_size: 11", "kernel_h: 11 kernel_w: 11"),
        ("local_size: 5", "local_size: 5 k: 1.0"),
        ("pool: MAX", "# pool: AVE\n pool: MAX"),
        ("{ dim: 10 dim: 3", "{ dim: 1, dim: 3;"),
    ],
)
def test_the_same_network_in_other_words_gives_the_same_weights(change, caffe, imported, tmp_path):
    text = caffe.prototxt.read_text()
    assert change[0] in text
    (tmp_path / "x.prototxt").write_text(text.replace(*change, 1))
    assert_same(imported[0], caffe_reader.read(str(tmp_path / "x.prototxt"), str(caffe.model)))


def test_bytes_that_only_comments_hold_do_not_matter(caffe, imported, tmp_path):
    content = (
        caffe.prototxt.read_bytes().replace(b"relu1", b"relu#1").replace(b"# made", b"# caf\xe9")
    )
    (tmp_path / "x.prototxt").write_bytes(b"\xef\xbb\xbf" + content)
    assert_same(imported[0], caffe_reader.read(str(tmp_path / "x.prototxt"), str(caffe.model)))


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_of_caffenet_are_not_taken_for_alexnets(legacy, caffe, tmp_path, monkeypatch):
    path = tmp_path / "x.caffemodel"
    for caffenet, words in (
        (False, None),
        (True, "x.caffemodel: has pool1 where .*deploy.prototxt has norm1"),
    ):
        prototxt = bvlc_alexnet.prototxt(CLASSES, SIDE, caffenet=caffenet)
        names = re.findall(r'name: "(\w+\d|prob)"\s+type', prototxt)
        path.write_bytes(bvlc_alexnet.caffemodel(caffe.arrays, legacy, names))
        if words:
            assert_refused(monkeypatch, tmp_path, flags(caffe, model=path), words)
        else:
            caffe_reader.read(str(caffe.prototxt), str(path))


def test_the_mean_may_be_caffes_file(caffe, tmp_path, monkeypatch):
    mean = np.zeros((3, 5, 4), np.float32) + [[[104]], [[117]], [[123]]]  # B, G, R
    mean[:, 0, 0] += 20  # in each channel, one more on the average
    (tmp_path / "m.binaryproto").write_bytes(bvlc_alexnet.legacy_blob(mean[None]))
    np.save(tmp_path / "m.npy", mean)
    np.save(tmp_path / "three.npy", [105.0, 118, 124])
    for name in ("m.binaryproto", "m.npy", "three.npy"):
        for order, expected in (("BGR", [124, 118, 105]), ("RGB", [105, 118, 124])):
            more = ["--channel-order", order, "--out-prefix", "x", "--mean", tmp_path / name]
            command = ["import_weights.py", *flags(caffe), *more]
            monkeypatch.setattr("sys.argv", list(map(str, command)))
            args = import_weights.parse_args()
            import_weights.resolve(args, "alexnet2012")
            assert args.mean == pytest.approx(expected)


def test_networks_with_layers_more_or_less_are_refused(caffe, tmp_path, monkeypatch):
    text = caffe.prototxt.read_text()
    soft = text.index('layer {\n  name: "prob"')
    again = text[soft:].replace('bottom: "fc8"', 'bottom: "prob"').replace('"prob"', '"again"')
    again = again.replace('bottom: "again"', 'bottom: "prob"')
    for changed, words in [
        (
            text[: text.index('layer {\n  name: "fc8"')],
            "the file ends where alexnet2012 has FullyConnected",
        ),
        (text + again, "layer again is Softmax where alexnet2012 ends"),
        (text[: soft - 9], "is not a prototxt, or is cut"),
        ("<html>404 Not Found</html>", "is not a prototxt, or is cut"),
        (
            text.replace("conv1", "conv\udc8d"),
            "is not a prototxt, or is cut",
        ),  # a byte that is no UTF-8
        ("", "give deploy.prototxt"),
    ]:
        (tmp_path / "x.prototxt").write_bytes(changed.encode("utf-8", "surrogateescape"))
        assert_refused(monkeypatch, tmp_path, flags(caffe, tmp_path / "x.prototxt"), words)


def test_weights_that_are_damaged_or_of_another_network_are_refused(caffe, tmp_path, monkeypatch):
    path = tmp_path / "x.caffemodel"
    whole = caffe.model.read_bytes()
    fewer = {**caffe.arrays, "fc8": [a[:7] for a in caffe.arrays["fc8"]]}
    without = {name: arrays for name, arrays in caffe.arrays.items() if name != "fc7"}
    endless = {**caffe.arrays, "fc8": [a * np.float32("nan") for a in caffe.arrays["fc8"]]}
    for content, words in [
        (whole[:-1], "x.caffemodel: OpenCV cannot read it"),
        (whole[: len(whole) // 2], "x.caffemodel: OpenCV cannot read it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "x.caffemodel: OpenCV cannot read it"),
        (b"\x89HDF\r\n\x1a\n", "x.caffemodel: is HDF5"),
        (b"", "x.caffemodel: .*conv1"),
        (bvlc_alexnet.caffemodel(without), "x.caffemodel: layer fc7 has no weight and bias"),
        (bvlc_alexnet.caffemodel(fewer), "layer fc8: .* not of the size that its settings say"),
        (bvlc_alexnet.caffemodel(endless), "x.caffemodel in OpenCV: differs .* by nan"),
    ]:
        path.write_bytes(content)
        assert_refused(monkeypatch, tmp_path, flags(caffe, model=path), words)


def test_what_opencv_computes_otherwise_is_not_written(caffe, tmp_path, monkeypatch):
    def disturbed(source, symbol):
        found = weights(source, symbol)
        found["conv1_weight"] = found["conv1_weight"][:, ::-1]  # B, G, R
        return found

    weights = alexnet_import.weights
    monkeypatch.setattr(alexnet_import, "weights", disturbed)
    assert_refused(monkeypatch, tmp_path, flags(caffe), "differs from the checkpoint by .*e-01")


def test_the_command_line_is_checked(caffe, tmp_path, monkeypatch):
    (tmp_path / "x.onnx").write_bytes(b"\x08")
    (tmp_path / "x.npy").write_bytes(b"")
    for command, words in [
        ([caffe.prototxt], "give one FILE, or Caffe's two"),
        ([caffe.model], "give one FILE, or Caffe's two"),
        ([*flags(caffe), "x.onnx"], "give one FILE, or Caffe's two"),
        ([*flags(caffe), "--mean", "123"], "--mean and --std: take three numbers"),
        ([*flags(caffe), "--std", "1,0,1"], "--std: must be above 0"),
        ([*flags(caffe), "--mean", tmp_path / "x.npy"], "--mean .*x.npy: is no mean.binaryproto"),
        (
            [*flags(caffe), "--class-names", "data/imagenet_classes.txt"],
            "1000 names, but the network has 10 classes",
        ),
        ([tmp_path / "x.onnx"], "x.onnx: is damaged, or is no ONNX"),
    ]:
        assert_refused(monkeypatch, tmp_path, command, words)
    for command in (flags(caffe, model="none.caffemodel"), ["none.onnx"]):
        with pytest.raises(FileNotFoundError):
            run(monkeypatch, *command, "--out-prefix", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "x.onnx"]


def test_what_is_there_is_lost_only_with_overwrite(caffe, imported, monkeypatch):
    command = [*flags(caffe), "--out-prefix", imported[0], "--resize", 99]
    with pytest.raises(cli.UserError, match="--out-prefix .*--overwrite"):
        run(monkeypatch, *command)
    assert load_config(imported[0])["args"]["resize"] == SIDE


def test_no_file_that_is_imported_is_replaced(tmp_path, monkeypatch):
    source = tmp_path / "g-0000.params"  # as Gluon's export names it
    mx.nd.save(str(source), {"x": mx.nd.ones(2)})
    before = source.read_bytes()
    monkeypatch.setattr(import_weights, "imported", lambda args: made)
    made = import_weights.Imported("alexnet", None, {"fc3_bias": [0]}, (3, 67, 67), (), None)
    command = [source, "--out-prefix", tmp_path / "g", "--overwrite", "--resize"]
    with pytest.raises(cli.UserError, match="--out-prefix .*would replace .*g-0000.params"):
        run(monkeypatch, *command, 67)
    with pytest.raises(cli.UserError, match="--resize 66: is smaller than .* 3,67,67"):
        run(monkeypatch, *command, 66)
    assert source.read_bytes() == before


@pytest.mark.slow
def test_full_size(tmp_path, monkeypatch, capsys):
    (tmp_path / "x.prototxt").write_text(bvlc_alexnet.prototxt(1000, 227))
    arrays = bvlc_alexnet.weights(1000, 9216)
    (tmp_path / "x.caffemodel").write_bytes(bvlc_alexnet.caffemodel(arrays))
    files = flags(None, tmp_path / "x.prototxt", tmp_path / "x.caffemodel")
    run(monkeypatch, *files, "--out-prefix", tmp_path / "out")
    print(capsys.readouterr().out)
    _, weights, _ = store.load(str(tmp_path / "out"), 0)
    assert np.array_equal(weights["fc1_weight"].asnumpy(), arrays["fc6"][0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prototxt", "caffemodel", "onnx"])
def test_damage_ends_in_one_line_or_in_a_network_that_opencv_agrees_with(
    kind, caffe, tmp_path, monkeypatch, capfd
):
    path = tmp_path / f"x.{kind}"
    if kind == "prototxt":
        command, content = flags(caffe, prototxt=path), caffe.prototxt.read_bytes()
        telling = rb"\d+"
    elif kind == "caffemodel":
        command, content = flags(caffe, model=path), caffe.model.read_bytes()
        telling = rb"(?s)........(conv|fc)\d\x12.{37}"  # where a layer begins
    else:
        pytest.importorskip("onnx")
        command = [path]
        content = bvlc_alexnet.onnx_model(caffe.arrays, SIDE, 7).SerializeToString()
        telling = rb"(?s)(kernel_shape|pads|fc\d|conv\d).{9}"
    places = [at for found in re.finditer(telling, content) for at in range(*found.span())]
    refused = 0
    for seed in range(100):
        path.write_bytes(mutations.mutate(content, seed, places))
        try:
            run(monkeypatch, *command, "--out-prefix", tmp_path / "out", "--overwrite")
        except cli.UserError as error:
            refused += 1
            assert "\n" not in str(error)
        assert capfd.readouterr().err == ""
    print(f"{kind}: {refused} of 100 refused")
    assert refused > 20
