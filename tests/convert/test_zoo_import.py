"""import_weights.py FILE: torchvision's and Gluon's AlexNet as checkpoints of alexnet_owt."""

import os
import re
import subprocess
import zipfile

import cv2
import mxnet as mx
import numpy as np
import pytest
import safetensors.numpy
import torch_files
from conftest import ROOT, assert_refused, run_script
from pictures import photo

import symbols
from common.checkpoint import store
from common.checkpoint.config import load_config
from common.cli import UserError
from common.convert import compare, zoo_import
from common.evaluate.classifier import Classifier
from common.graph.graph import Graph

CLASSES = 5
PEERS = os.path.join(ROOT, ".venv-bench", "bin", "python")
# In MXNet's names and the files': https://github.com/pytorch/vision, models/alexnet.py
TORCHVISION = [
    *(f"features.{i}" for i in (0, 3, 6, 8, 10)),
    *(f"classifier.{i}" for i in (1, 4, 6)),
]


SMALL = {f"{layer}.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T for layer in TORCHVISION}
SMALL.update({f"{layer}.bias": np.float32([i, 7]) for i, layer in enumerate(TORCHVISION)})


@pytest.fixture(scope="module")
def gluon(tmp_path_factory):
    """Gluon's own network with random weights, and its files in both spellings."""
    folder = tmp_path_factory.mktemp("gluon")
    mx.random.seed(4)
    net = mx.gluon.model_zoo.vision.alexnet(classes=CLASSES)
    net.initialize(mx.init.Xavier(magnitude=3))
    net.hybridize()
    net(mx.nd.zeros((1, 3, 224, 224)))
    net.save_parameters(str(folder / "structure.params"))
    net.export(str(folder / "names"), 0)
    return net, folder


def take(file, prefix, *more):
    """Import ``file``; what the script said."""
    result = run_script("import_weights.py", file, "--out-prefix", prefix, *more)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    return result.stdout


def renamed(arrays):
    """By the names of alexnet_owt."""
    return {
        f"{ours}_{kind}": arrays[f"{theirs}.{kind}"]
        for ours, theirs in zip(zoo_import._OURS, TORCHVISION)
        for kind in ("weight", "bias")
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.float32 and np.array_equal(found[name], array), name


@pytest.mark.parametrize("name", ["structure.params", "names-0000.params"])
def test_gluons_network_gives_its_probabilities(gluon, tmp_path, name):
    net, folder = gluon
    out = take(folder / name, tmp_path / "out", "--resize", 224)
    assert f"{CLASSES} classes, images 3,224,224" in out and "in numpy by at most" in out
    args = load_config(str(tmp_path / "out"))["args"]
    assert args["network"] == "alexnet_owt" and args["image_shape"] == [3, 224, 224]
    assert args["rgb_mean"] == pytest.approx([123.675, 116.28, 103.53])
    assert args["rgb_std"] == pytest.approx([58.395, 57.12, 57.375])
    pixels = np.stack([photo(224, 224, i) for i in range(3)])
    classifier = Classifier(str(tmp_path / "out"), 0)
    names, shares = classifier.predict(list(pixels), CLASSES, rgb=True)
    seen = pixels / 255 - np.array([0.485, 0.456, 0.406])  # as the zoo's page says
    seen = (seen / [0.229, 0.224, 0.225]).transpose(0, 3, 1, 2)
    expected = mx.nd.softmax(net(mx.nd.array(seen))).asnumpy()
    for row, (classes, probabilities) in zip(expected, zip(names, shares)):
        found = dict(zip(classes, probabilities))
        largest = max(abs(found[one] - row[i]) for i, one in enumerate(classifier.classes))
        assert largest < 1e-6 * row.max()


def test_gluons_network_loads_what_export_mxnet_writes_of_it(gluon, tmp_path):
    net, folder = gluon
    prefix, path = str(tmp_path / "net"), tmp_path / "out.params"
    take(folder / "structure.params", prefix, "--resize", 224)
    cv2.imwrite(str(tmp_path / "x.png"), photo(224, 224))
    command = ["--model-prefix", prefix, "--load-epoch", 0, "--images", tmp_path / "x.png"]
    result = run_script("export_mxnet.py", *command, "--gluon", path)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert "by at most" in result.stdout and "in Gluon's network" in result.stdout
    loaded = mx.gluon.model_zoo.vision.alexnet(classes=CLASSES)
    loaded.load_parameters(str(path))
    images = mx.nd.random.normal(shape=(2, 3, 224, 224))
    assert np.array_equal(loaded(images).asnumpy(), net(images).asnumpy())
    read = zoo_import.read
    assert_same(read(str(path)), read(str(folder / "structure.params")))
    again = run_script("export_mxnet.py", *command, "--gluon", path)
    assert_refused(again, f"--gluon {path}: exists already")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "old, new", [("", ""), ("^", "module."), ("features", "features.module")]
)  # DataParallel, of all or of the convolutions, as of Places365
def test_pytorchs_files_in_both_forms(tmp_path, legacy, old, new):
    def around(state):
        return {"epoch": 90, "arch": "alexnet", "state_dict": state} if new else state

    path = str(tmp_path / "x.pth.tar")
    keyed = {re.sub(old, new, name) if old else name: array for name, array in SMALL.items()}
    torch_files.save(path, keyed, legacy, around)
    assert_same(zoo_import.read(path), renamed(SMALL))


def test_bfloat16(tmp_path):
    upper = {
        name: (np.ascontiguousarray(array).view("u4") >> 16).astype("u2").view("V2")
        for name, array in SMALL.items()
    }
    torch_files.save(tmp_path / "x.pth", upper)
    assert_same(zoo_import.read(str(tmp_path / "x.pth")), renamed(SMALL))  # small integers


@pytest.mark.parametrize("ending", zoo_import.EXTENSIONS)
def test_a_file_that_is_not_there_is_named(tmp_path, ending):
    result = run_script("import_weights.py", f"none{ending}", "--out-prefix", tmp_path / "o")
    assert_refused(result, f"none{ending}: No such file")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_safetensors(tmp_path, dtype):
    path = str(tmp_path / "x.safetensors")
    arrays = {name: np.ascontiguousarray(array, dtype) for name, array in SMALL.items()}
    safetensors.numpy.save_file(arrays, path)
    assert_same(zoo_import.read(path), renamed(SMALL))


class Hostile:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return os.system, (f"touch {self.touched}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_runs_nothing(tmp_path, legacy):
    touched = tmp_path / "touched"
    torch_files.save(
        tmp_path / "x.pth", SMALL, legacy, lambda state: {**state, "a": Hostile(touched)}
    )
    result = run_script("import_weights.py", tmp_path / "x.pth", "--out-prefix", tmp_path / "o")
    assert_refused(result, "x.pth: its pickle names posix.system", "nothing of it was run")
    assert not touched.exists() and not list(tmp_path.glob("o*"))


def test_other_networks_are_refused(tmp_path):
    path = str(tmp_path / "x.pth")
    lacking = {name: array for name, array in SMALL.items() if name != "features.3.bias"}
    more = {**SMALL, "extra.0.weight": SMALL["features.0.bias"]}
    for arrays, words in ((lacking, "lacks features.3.bias"), (more, "has extra.0.weight")):
        torch_files.save(path, arrays)
        with pytest.raises(UserError, match=f"{path}: {words}; torchvision's AlexNet has"):
            zoo_import.read(path)
    mxnets = str(tmp_path / "x.params")  # as MXNet's own example names its layers
    mx.nd.save(mxnets, {"arg:convolution0_weight": mx.nd.ones(2)})
    with pytest.raises(UserError, match="x.params: .*; python -m common.adopt takes"):
        zoo_import.read(mxnets)
    torch_files.save(path, SMALL)
    result = run_script("import_weights.py", path, "--out-prefix", tmp_path / "o")
    assert_refused(result, "x.pth: conv1_weight would be of 3x2", "has 64x3x11x11")
    assert not list(tmp_path.glob("o*"))


def test_the_proof_sees_a_wrong_layer(gluon):
    net, folder = gluon
    weights = zoo_import.read(str(folder / "structure.params"))
    symbol = symbols.get_symbol("alexnet_owt", CLASSES)
    assert zoo_import.difference("x", weights, symbol) < 1e-6
    plain = Graph(symbol)
    (pooling,) = (node for node in plain.nodes if node.name == "pooling1")
    pooling.attrs["pool_type"] = "avg"
    with pytest.raises(UserError, match="x in MXNet: differs"):
        zoo_import.difference("x", weights, plain.symbol())


def damaged_files(folder):
    """Cut files, files of other kinds, and a zip without a state dict."""
    torch_files.save(folder / "whole.pth", SMALL)
    torch_files.save(folder / "old.pth", SMALL, legacy=True)
    whole, old = (folder / "whole.pth").read_bytes(), (folder / "old.pth").read_bytes()
    with zipfile.ZipFile(folder / "other.pth", "w") as archive:
        archive.writestr("x.txt", "x")
    for i, content in enumerate([b"", whole[:-99], old[:-99], old[:300], b"x" * 300]):
        (folder / f"{i}.pth").write_bytes(content)
    (folder / "x.params").write_bytes(b"x" * 300)
    (folder / "x.safetensors").write_bytes(b"x" * 300)
    os.remove(folder / "whole.pth")
    os.remove(folder / "old.pth")
    return sorted(folder.iterdir())


def test_damaged_files_are_refused(tmp_path):
    for path in damaged_files(tmp_path):
        with pytest.raises(UserError, match="is damaged") as refused:
            zoo_import.read(str(path))
        assert "\n" not in str(refused.value) and path.name in str(refused.value)


SAVE = """
import numpy, torch
torch.manual_seed(5)
net = alexnet(num_classes=1000).eval()
for one in net.parameters():  # so that some classes are likelier than others
    if one.dim() > 1:
        torch.nn.init.kaiming_normal_(one)
path = sys.argv[1] + "/"
torch.save(net.state_dict(), path + "new.pth")
torch.save(net.state_dict(), path + "old.pth", _use_new_zipfile_serialization=False)
torch.onnx.export(net, torch.zeros(1, 3, 224, 224), path + "old.onnx", dynamo=False)
if importlib.util.find_spec("onnxscript"):
    torch.onnx.export(net, (torch.zeros(1, 3, 224, 224),), path + "new.onnx", dynamo=True)
images = torch.from_numpy(numpy.load(path + "images.npy"))
with torch.no_grad():
    numpy.save(path + "said.npy", torch.softmax(net.double()(images.double()), 1).numpy())
"""


@pytest.fixture(scope="module")
def torchvisions(tmp_path_factory):
    """A folder of files that PyTorch writes of torchvision's class, images, and its answers."""
    if not os.path.exists(PEERS):
        pytest.skip("make test-slow makes .venv-bench")
    folder = tmp_path_factory.mktemp("torchvision")
    images = np.random.default_rng(1).normal(0, 1, (4, 3, 224, 224)).astype(np.float32)
    np.save(folder / "images.npy", images)
    program = f"import importlib.util{torch_files.ALEXNET}{SAVE}"
    subprocess.run([PEERS, "-c", program, folder], check=True, timeout=300, cwd=ROOT)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["new.pth", "old.pth", "old.onnx", "new.onnx"])
def test_torchvisions_own_class_and_files(torchvisions, tmp_path, name):
    if not (torchvisions / name).exists():
        pytest.skip("PyTorch's new exporter needs onnxscript")
    assert "1000 classes" in take(torchvisions / name, tmp_path / "out")
    images, expected = (np.load(torchvisions / f"{one}.npy") for one in ("images", "said"))
    symbol, *params = store.load(str(tmp_path / "out"), 0)
    said = compare.probabilities(compare.without_training(symbol), *params, images)
    print(f"{name}: {np.abs(said - expected).max():.1e} of {expected.max():.2f}")
    assert np.abs(said - expected).max() < 1e-6 * expected.max()
