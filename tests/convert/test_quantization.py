"""quantize.py: int8 checkpoints against the float32 ones that they come from."""

import json

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import bands, run_script, write_records

import quantize
import symbols
from common import cli
from common.checkpoint import store
from common.checkpoint.config import load_config
from common.convert import quantization
from common.evaluate.network import bind
from common.graph import dequantize
from common.input.preparation import Preparation, sample_images
from common.io import cpus
from common.records.scan import scan_records
from common.records.writer import create_records
from common.train import binding
from common.train.schedule import LearningRate


def flags(prefix, path, *more):
    return ["--model-prefix", prefix, "--load-epoch", "1", "--data-calib", path, *more]


def assert_refused(monkeypatch, command, words):
    monkeypatch.setattr("sys.argv", ["quantize.py", *command])
    with pytest.raises(cli.UserError, match=words) as refused:
        quantize.main()
    assert "\n" not in str(refused.value)


def probabilities(network, data, batch_size):
    """What the network says of ``data`` (N, C, H, W), run in batches; (N, classes)."""
    module = bind(*network, (batch_size, *data.shape[1:]), [mx.cpu()])
    filled = np.concatenate([data, data[: -len(data) % batch_size]])
    said = []
    for start in range(0, len(data), batch_size):
        batch = mx.nd.array(filled[start : start + batch_size])
        module.forward(mx.io.DataBatch([batch]), is_train=False)
        said.append(module.get_outputs()[0].asnumpy())
    return np.concatenate(said)[: len(data)]


@pytest.fixture(scope="module")
def lenet(grey, tmp_path_factory):
    """LeNet trained on grey bands, and quantised: the two prefixes and what quantize.py said."""
    prefix = str(tmp_path_factory.mktemp("lenet") / "lenet")
    recipe = ["--network", "lenet", "--dataset", "mnist", "--num-epochs", 1, "--batch-size", 16]
    command = [*recipe, "--data-train", grey.train, "--model-prefix", prefix]
    assert run_script("train_imagenet.py", *command).returncode == 0
    result = run_script("quantize.py", *flags(prefix, grey.train, "--num-calib-examples", 50))
    assert result.returncode == 0, result.stderr
    return prefix, prefix + "-int8", result


@pytest.fixture(params=["1", "0"], ids=["int8", "here"])
def operators(request, monkeypatch):
    """In int8, or in what this CPU is faster at."""
    monkeypatch.setenv(dequantize.KEEP, request.param)


def test_lenet_says_the_same_in_int8(lenet, operators):
    data = (np.array(bands(101, seed=2)[0], np.float32).transpose(0, 3, 1, 2) - 20) / 200
    before, after = (probabilities(store.load(prefix, 1), data, 101) for prefix in lenet[:2])
    assert np.mean(before.argmax(axis=1) == after.argmax(axis=1)) >= 0.97
    assert 0 < np.abs(before - after).max() < 0.2  # near, but not the float32 network itself


@pytest.fixture(scope="module")
def alexnet():
    """AlexNet after a few steps on coloured bands: symbol, arg_params, aux_params."""
    settings = binding.ModuleSettings(LearningRate(0.01), momentum=0.8, initializer="msra")
    symbol = symbols.get_symbol("alexnet", 3)
    module = binding.bind(symbol, [mx.cpu()], (8, 3, 67, 67), settings)
    data, labels = coloured(120, seed=1)
    for i in range(0, 120, 8):
        batch = [mx.nd.array(data[i : i + 8])], [mx.nd.array(labels[i : i + 8])]
        module.forward_backward(mx.io.DataBatch(*batch))
        module.update()
    return (symbol, *module.get_params())


def coloured(count, seed):
    """Bands of 67x67 in colour, as the network gets them, (N, 3, 67, 67), and their labels."""
    images, labels = bands(count, seed, size=67, channels=3)
    return (np.array(images, np.float32).transpose(0, 3, 1, 2) - 80) / 60, labels


def test_alexnet_says_the_same_in_int8_at_any_batch_size(alexnet, operators):
    quantized = quantization.quantize(*alexnet, coloured(40, seed=1)[0], (3, 67, 67))
    data, labels = coloured(41, seed=2)
    before = probabilities(alexnet, data, 41)
    assert np.mean(before.argmax(axis=1) == labels) > 0.8
    for batch_size in (1, 7, 64):
        after = probabilities(quantized, data, batch_size)
        assert np.mean(before.argmax(axis=1) == after.argmax(axis=1)) >= 0.95
        assert 0 < np.abs(before - after).max() < 0.1


def test_all_but_lrn_and_softmax_becomes_int8(alexnet):
    symbol, arg_params, _ = quantization.quantize(*alexnet, coloured(2, seed=1)[0], (3, 67, 67))
    nodes = json.loads(symbol.tojson())["nodes"]
    layers = [node for node in nodes if node["op"].startswith("_sg_mkldnn")]
    assert len(layers) == 8 and all("quantized" in node["attrs"] for node in layers)
    left = {node["op"] for node in nodes} & {"Convolution", "FullyConnected", "Activation", "LRN"}
    assert left == {"LRN"}
    types = [node["attrs"]["out_type"] for node in nodes if node["op"] == "_contrib_quantize_v2"]
    assert set(types) == {"auto"}  # unsigned, with twice the steps, where nothing is below 0
    for name in ("fc1", "fc2", "fc3"):
        assert arg_params[f"{name}_weight_quantize"].dtype == np.int8


def test_stock_mxnet_runs_the_files(lenet):
    _, quantized, _ = lenet
    code = f"""
import sys
import common.runtime.mxnet
import mxnet as mx
symbol, arg_params, aux_params = mx.model.load_checkpoint({quantized!r}, 1)
module = mx.mod.Module(symbol)
module.bind([("data", (5, 1, 32, 32))], [("softmax_label", (5,))], for_training=False)
module.set_params(arg_params, aux_params)
module.forward(mx.io.DataBatch([mx.nd.ones((5, 1, 32, 32))]), is_train=False)
ours = {{"common.runtime.native", "common.graph.native_operators", "common.evaluate.classifier"}}
assert not ours & set(sys.modules)
print(module.get_outputs()[0].asnumpy().sum())
"""
    result = run_script("-c", code)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == pytest.approx(5, abs=1e-4)


def test_it_says_where_it_comes_from_and_how_to_score_it(lenet, grey):
    plain, quantized, result = lenet
    assert "calibrated on 50 images" in result.stdout and result.stderr == ""
    assert ("no VNNI" in result.stdout) != cpus.has_int8()
    assert f"score.py --model-prefix {quantized} --load-epoch 1" in result.stdout
    config = load_config(quantized)
    assert config["int8"] == {
        "quantized_from": f"{plain}-0001.params",
        "data_calib": grey.train,
        "num_calib_examples": 50,
    }
    assert config["classes"] == grey.classes


def test_score_and_predict_take_it_as_any_checkpoint(lenet, grey, tmp_path):
    _, quantized, _ = lenet
    model = ["--model-prefix", quantized, "--load-epoch", 1]
    scores = [
        run_script("score.py", *model, "--data-val", grey.val, "--batch-size", n) for n in (7, 64)
    ]
    shown = [result.stdout.partition("  |")[0] for result in scores]
    assert shown[0] == shown[1] and shown[0].startswith("101 images"), scores[0].stderr
    cv2.imwrite(str(tmp_path / "x.png"), bands(1, seed=3)[0][0])
    for keep in ("0", "1"):
        held = {"DNNL_MAX_CPU_ISA": "AVX2", dequantize.KEEP: keep}
        named = run_script("predict.py", *model, tmp_path / "x.png", **held)
        assert named.returncode == 0 and "middle" in named.stdout, named.stderr
        assert ("no VNNI" in named.stderr) == (keep == "0")


def test_calibration_reads_all_over_the_file_and_prepares_as_evaluation_does(tmp_path):
    images = [np.full((9, 9, 1), i, np.uint8) for i in range(200)]
    found = scan_records(write_records(tmp_path / "sorted", images, np.arange(200) // 20))
    preparation = Preparation((1, 7, 7), None, (10.0,), (2.0,))
    read = [list(sample_images(found, 40, preparation)) for _ in range(2)]
    chosen = [float(image[0, 0, 0]) * 2 + 10 for image in read[0]]
    assert read[0][0].shape == (1, 7, 7) and np.array_equal(read[0], read[1])
    assert len(set(chosen)) == 40 and len({i // 20 for i in chosen}) == 10
    assert len(list(sample_images(found, 500, preparation))) == 200


def test_what_is_there_is_lost_only_with_overwrite(lenet, grey, monkeypatch):
    plain, quantized, _ = lenet
    command = flags(plain, grey.train)
    assert_refused(monkeypatch, command, "--out-prefix .*--overwrite")
    itself = [*command, "--out-prefix", plain, "--overwrite"]
    assert_refused(monkeypatch, itself, "--out-prefix .*is --model-prefix")
    store.load(plain, 1)
    assert load_config(quantized)["int8"]["num_calib_examples"] == 50
    again = [*command, "--num-calib-examples", "50", "--overwrite"]
    monkeypatch.setattr("sys.argv", ["quantize.py", *again])
    quantize.main()
    store.load(quantized, 1)


def test_bad_input_is_refused_before_anything_is_written(lenet, grey, tmp_path, monkeypatch):
    plain, quantized, _ = lenet
    with create_records(str(tmp_path / "broken")) as writer:
        writer.write(0, b"\xff\xd8\xff\xe0 and no picture")
    for prefix, path, words in [
        (quantized, grey.train, "is int8 already"),
        (plain, "none.rec", "none.rec: no such"),
        (str(tmp_path / "none"), grey.train, "none-config.json: not found"),
        (plain, str(tmp_path / "broken.rec"), "broken.rec: record 0: is not a picture"),
    ]:
        command = flags(prefix, path, "--out-prefix", str(tmp_path / "out"))
        assert_refused(monkeypatch, command, words)
    assert not list(tmp_path.glob("out*"))


def test_a_process_without_mkldnn_is_refused(monkeypatch):
    monkeypatch.setenv("MXNET_MKLDNN_ENABLED", "0")
    with pytest.raises(cli.UserError, match="MXNET_MKLDNN_ENABLED"):
        quantization.check_build()
    monkeypatch.setattr(mx.runtime.Features, "is_enabled", lambda self, name: name != "MKLDNN")
    with pytest.raises(cli.UserError, match="built without MKL-DNN"):
        quantization.check_build()


def test_a_network_with_nothing_to_quantise_is_refused():
    data = mx.sym.Variable("data")
    symbol = mx.sym.SoftmaxOutput(mx.sym.Flatten(mx.sym.LRN(data, nsize=3)), name="softmax")
    images = np.random.RandomState(0).rand(4, 3, 5, 5).astype(np.float32)
    with pytest.raises(cli.UserError, match="no convolution or fully connected layer"):
        quantization.quantize(symbol, {}, {}, images, (3, 5, 5))


def test_mxnet_says_nothing_of_its_own(lenet, monkeypatch, capfd):
    monkeypatch.setenv("MXNET_QUANTIZATION_VERBOSE", "0")  # MXNet sets it; this puts it back
    network = store.load(lenet[0], 1)
    images = np.ones((2, 1, 32, 32), np.float32)
    quantization.quantize(*network, images, (1, 32, 32))
    assert capfd.readouterr() == ("", "")
