"""export_onnx.py: the file against the checkpoint it comes from, in engines other than MXNet."""

import importlib.metadata
import importlib.util
import json
import os
import re
from types import SimpleNamespace

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT, bands, run_script, write_records

import export_onnx
import symbols
from common import cli
from common.checkpoint import store
from common.checkpoint.config import load_config, save_config
from common.convert import onnx_writer, quantization
from common.evaluate.network import bind
from common.input.preparation import Preparation

onnx = pytest.importorskip("onnx", reason="pip install '.[onnx]' brings it")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install '.[onnx]' brings it")
pytestmark = pytest.mark.filterwarnings("ignore:.*mapping:DeprecationWarning")  # MXNet's converter


def export(monkeypatch, prefix, *more):
    command = ["--model-prefix", prefix, "--load-epoch", 1, *more]
    monkeypatch.setattr("sys.argv", ["export_onnx.py", *map(str, command)])
    export_onnx.main()


def assert_refused(monkeypatch, words, prefix, *more):
    with pytest.raises(cli.UserError, match=words) as refused:
        export(monkeypatch, prefix, *more)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def lenet(grey, tmp_path_factory):
    """LeNet trained on grey bands: its --model-prefix."""
    prefix = str(tmp_path_factory.mktemp("lenet") / "lenet")
    recipe = ["--network", "lenet", "--dataset", "mnist", "--num-epochs", 1, "--batch-size", 16]
    data = ["--data-train", grey.train, "--data-val", grey.val, "--model-prefix", prefix]
    result = run_script("train_imagenet.py", *recipe, *data)
    assert result.returncode == 0, result.stderr
    return prefix


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """Colour pictures wider than high, as records, as arrays and as files."""
    folder = tmp_path_factory.mktemp("coloured")
    images, labels = bands(5, seed=1, size=90, channels=3)
    images = [np.ascontiguousarray(image[:76]) for image in images]
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f"{i}.png"), image)
    records = write_records(folder / "x", images, labels, ["top", "middle", "bottom"])
    files = [str(folder / f"{i}.png") for i in range(len(images))]
    return SimpleNamespace(records=records, images=images, files=files)


def random_network(folder, network, data_val):
    """Save ``network`` at 67 px with random weights that tell pictures apart: its prefix."""
    prefix = str(folder / network)
    symbol = symbols.get_symbol(network, 3)
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, 3, 67, 67))], [("softmax_label", (1,))])
    mx.random.seed(1)
    module.init_params(mx.init.Xavier(factor_type="in", magnitude=6))
    settings = {
        "image_shape": [3, 67, 67],
        "num_classes": 3,
        "resize": 70,
        "rgb_mean": [90.0, 80.0, 70.0],
        "rgb_std": [30.0, 40.0, 50.0],
        "data_val": data_val,
    }
    save_config(prefix, settings, ["top", "middle", "bottom"])
    store.save(prefix, 1, symbol, *module.get_params())
    return prefix


@pytest.fixture(scope="module")
def alexnet(coloured, tmp_path_factory):
    """AlexNet with random weights, exported for any batch size: its --model-prefix."""
    prefix = random_network(tmp_path_factory.mktemp("alexnet"), "alexnet", coloured.records)
    with pytest.MonkeyPatch.context() as monkeypatch:
        export(monkeypatch, prefix, "--dynamic-batch")
    return prefix


def inputs(prefix, images):
    """The pictures as the network gets them, (N, C, H, W)."""
    preparation = Preparation.from_args(load_config(prefix)["args"])
    return np.stack([preparation.apply(image) for image in images])


def mxnet_says(prefix, data):
    module = bind(*store.load(prefix, 1), data.shape, [mx.cpu()])
    module.forward(mx.io.DataBatch([mx.nd.array(data)]), is_train=False)
    return module.get_outputs()[0].asnumpy()


def onnxruntime_says(path, data):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["softmax"], {"data": data})[0]


def opencv_says(path, data):
    network = cv2.dnn.readNetFromONNX(str(path))
    network.setInput(data)
    return network.forward()


def test_a_trained_network_says_the_same_everywhere(lenet, grey):
    result = run_script("export_onnx.py", "--model-prefix", lenet, "--load-epoch", 1)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert result.stdout.startswith(f"{lenet}-0001.onnx: 0.2 MB, batch size 1\n")
    for engine in ("ONNX Runtime", "OpenCV"):
        found = re.search(
            rf"{engine} differs from MXNet by at most (\S+) on 8 images", result.stdout
        )
        assert 0 <= float(found[1]) < 1e-5

    images, labels = bands(101, seed=2)
    data = inputs(lenet, images)
    expected = mxnet_says(lenet, data)
    assert np.mean(expected.argmax(axis=1) == labels) > 0.9  # it has something to say
    for says in (onnxruntime_says, opencv_says):
        said = np.concatenate([says(f"{lenet}-0001.onnx", image[None]) for image in data])
        assert np.abs(said - expected).max() < 1e-5


def assert_runs_with_any_batch_size(prefix, images):
    data = inputs(prefix, images)
    expected = mxnet_says(prefix, data)
    assert np.ptp(expected, axis=0).max() > 0.05  # pictures are told apart
    for says in (onnxruntime_says, opencv_says):
        for count in (1, 4, 5):
            said = says(f"{prefix}-0001.onnx", data[:count])
            assert np.abs(said - expected[:count]).max() < 1e-5


def test_alexnet_runs_with_any_batch_size(alexnet, coloured):
    assert_runs_with_any_batch_size(alexnet, coloured.images)


def test_alexnet_in_two_groups_runs_with_any_batch_size(coloured, tmp_path, monkeypatch):
    prefix = random_network(tmp_path, "alexnet2012", coloured.records)
    export(monkeypatch, prefix, "--dynamic-batch")
    assert_runs_with_any_batch_size(prefix, coloured.images)


def shapes(model):
    """Name -> its sizes, or their names, for the inputs and outputs."""
    values = [*model.graph.input, *model.graph.output]
    sizes = {value.name: value.type.tensor_type.shape.dim for value in values}
    return {name: [size.dim_param or size.dim_value for size in dim] for name, dim in sizes.items()}


def test_the_file_is_inference_alone_and_for_older_servers_too(alexnet):
    model = onnx.load(f"{alexnet}-0001.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 13)]
    assert model.ir_version == 7
    assert shapes(model) == {"data": ["batch", 3, 67, 67], "softmax": ["batch", 3]}
    operators = {node.op_type for node in model.graph.node}
    assert operators == {"Conv", "Relu", "LRN", "MaxPool", "Flatten", "Gemm", "Softmax"}
    layers = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "fc3"]
    expected = {f"{layer}_{kind}" for layer in layers for kind in ("weight", "bias")}
    assert {value.name for value in model.graph.initializer} == expected


def test_the_batch_size_is_one_or_what_is_asked_for(lenet, tmp_path, monkeypatch):
    for flags, size in [([], 1), (["--batch-size", 3], 3)]:
        path = tmp_path / f"{size}.onnx"
        export(monkeypatch, lenet, *flags, "--out", path)
        assert shapes(onnx.load(str(path))) == {"data": [size, 1, 32, 32], "softmax": [size, 3]}


def metadata(path):
    return {entry.key: json.loads(entry.value) for entry in onnx.load(str(path)).metadata_props}


def test_the_file_says_how_to_prepare_a_picture(alexnet, lenet, tmp_path, monkeypatch):
    assert metadata(f"{alexnet}-0001.onnx") == {
        "image_shape": [3, 67, 67],
        "resize": 70,
        "mean": [90.0, 80.0, 70.0],
        "std": [30.0, 40.0, 50.0],
        "channel_order": "RGB",
        "classes": ["top", "middle", "bottom"],
    }
    export(monkeypatch, lenet, "--out", tmp_path / "x.onnx")
    trained = load_config(lenet)["args"]
    assert metadata(tmp_path / "x.onnx") == {
        "image_shape": [1, 32, 32],
        "resize": None,
        "mean": trained["rgb_mean"],
        "std": trained["rgb_std"],
        "channel_order": "grey",
        "classes": ["top", "middle", "bottom"],
    }


def test_classes_without_names_are_numbered():
    config = {
        "args": {
            "image_shape": [1, 9, 9],
            "num_classes": 2,
            "resize": None,
            "rgb_mean": [0.0],
            "rgb_std": [1.0],
        },
        "classes": None,
    }
    assert json.loads(onnx_writer.metadata(config)["classes"]) == ["0", "1"]


@pytest.mark.parametrize("engine", ["ONNX Runtime", "OpenCV"])
@pytest.mark.parametrize("batch", [["--dynamic-batch"], ["--batch-size", 3]])
def test_a_file_that_says_something_else_is_not_written(
    engine, batch, lenet, tmp_path, monkeypatch
):
    convert = onnx_writer.convert

    def wrongly(*args):
        model = convert(*args)
        (bias,) = [value for value in model.graph.initializer if value.name == "c1_bias"]
        wrong = onnx.numpy_helper.to_array(bias) + np.float32([0.01, 0, 0, 0, 0, 0])
        bias.CopyFrom(onnx.numpy_helper.from_array(wrong, "c1_bias"))
        return model

    monkeypatch.setattr(onnx_writer, "convert", wrongly)
    monkeypatch.setattr(onnx_writer, "_ENGINES", {engine: onnx_writer._ENGINES[engine]})
    (tmp_path / "there.onnx").write_text("earlier")
    words = f"{engine}: differs from the checkpoint by .*nothing is written"
    assert_refused(monkeypatch, words, lenet, *batch, "--out", tmp_path / "new.onnx")
    there = ["--out", tmp_path / "there.onnx", "--overwrite"]
    assert_refused(monkeypatch, words, lenet, *batch, *there)
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]
    assert (tmp_path / "there.onnx").read_text() == "earlier"


def test_a_file_that_is_there_is_lost_only_with_overwrite(lenet, tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    path.write_text("earlier")
    assert_refused(monkeypatch, "x.onnx: already exists.*--overwrite", lenet, "--out", path)
    assert path.read_text() == "earlier"
    export(monkeypatch, lenet, "--out", path, "--overwrite")
    export(monkeypatch, lenet, "--out", tmp_path / "new folder" / "x.onnx")
    onnx.checker.check_model(str(path))


@pytest.mark.parametrize("version", ["1.9.0", "1.13.0", "1.24.0", "1.25.0rc1", "2.0"])
def test_other_versions_of_onnx_are_refused_by_name(version, lenet, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    words = f"onnx {version}: .* 1.13.1 to 1.23; pip install '.\\[onnx\\]'"
    assert_refused(monkeypatch, words, lenet, "--out", tmp_path / "x.onnx")


@pytest.mark.parametrize("version", ["1.13.1", "1.18.0", "1.23.2"])
def test_versions_of_onnx_that_work_are_not_refused(version, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    onnx_writer.check_packages()


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(name, lenet, monkeypatch):
    find_spec = importlib.util.find_spec
    without = lambda wanted: None if wanted == name else find_spec(wanted)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert_refused(monkeypatch, f"^{name}: is not installed; pip install '.\\[onnx\\]'", lenet)


def test_an_int8_checkpoint_is_refused(lenet, tmp_path, monkeypatch):
    prefix = str(tmp_path / "int8")
    config = load_config(lenet)
    images = inputs(lenet, bands(2, seed=1)[0])
    save_config(prefix, config["args"], config["classes"])
    store.save(prefix, 1, *quantization.quantize(*store.load(lenet, 1), images, (1, 32, 32)))
    assert_refused(monkeypatch, "--model-prefix .*is int8, .*give the float32 one", prefix)


def test_the_images_can_be_other_records_or_files(lenet, coloured, tmp_path, monkeypatch, capsys):
    prefix = str(tmp_path / "moved")
    config = load_config(lenet)
    config["args"]["data_val"] = str(tmp_path / "gone.rec")
    save_config(prefix, config["args"], config["classes"])
    store.save(prefix, 1, *store.load(lenet, 1))
    assert_refused(monkeypatch, "--data-val: is needed, .*gone.rec.* is not here", prefix)
    assert_refused(monkeypatch, "none.rec: no such", prefix, "--data-val", "none.rec")
    export(monkeypatch, prefix, "--images", *coloured.files[:3])
    assert "on 3 images" in capsys.readouterr().out
    export(monkeypatch, prefix, "--data-val", coloured.records, "--overwrite")
    assert "on 5 images" in capsys.readouterr().out


def blocks(language):
    """The fenced blocks of docs/serving.md in ``language``."""
    with open(os.path.join(ROOT, "docs", "serving.md"), encoding="utf-8") as file:
        return re.findall(rf"^```{language}\n(.*?)^```$", file.read(), re.DOTALL | re.MULTILINE)


def test_the_documented_lines_name_a_picture_as_mxnet_does(
    alexnet, lenet, coloured, tmp_path, monkeypatch
):
    export(monkeypatch, lenet, "--out", f"{lenet}-0001.onnx", "--overwrite")
    small = str(tmp_path / "small.png")  # smaller than the crop
    cv2.imwrite(small, coloured.images[0][:20, :25])
    code, _ = blocks("python")
    below = str(tmp_path / "below")  # the short side is resized to less than the crop's
    config = load_config(alexnet)
    save_config(below, {**config["args"], "resize": 40}, config["classes"])
    store.save(below, 1, *store.load(alexnet, 1))
    export(monkeypatch, below)
    result = run_script("-c", code, f"{below}-0001.onnx", __file__)
    assert (
        result.returncode == 1 and result.stderr == f"{__file__}: is no picture that OpenCV reads\n"
    )
    for prefix, path, channels in [
        (alexnet, coloured.files[1], 3),
        (lenet, small, 1),
        (below, coloured.files[1], 3),
    ]:
        result = run_script("-c", code, f"{prefix}-0001.onnx", path)
        assert result.returncode == 0, result.stderr
        image = cv2.imread(path, cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
        expected = mxnet_says(prefix, inputs(prefix, [image]))[0]
        name, probability = result.stdout.split()
        assert name == ["top", "middle", "bottom"][expected.argmax()]
        assert float(probability) == pytest.approx(expected.max(), abs=1e-5)


def test_the_documented_server_configuration_fits_the_file(lenet, monkeypatch):
    export(monkeypatch, lenet, "--dynamic-batch", "--overwrite")
    session = onnxruntime.InferenceSession(f"{lenet}-0001.onnx")
    (configuration,) = blocks("pbtxt")
    said = re.findall(r'name: "(\w+)" data_type: TYPE_FP32 dims: \[ ([\d, ]+) \]', configuration)
    values = [*session.get_inputs(), *session.get_outputs()]
    assert [name for name, _ in said] == [value.name for value in values]
    for (_, sizes), value in zip(said, values):
        assert value.type == "tensor(float)" and value.shape[0] == "batch"
        assert len(sizes.split(",")) == len(value.shape) - 1  # Triton puts the batch in front
