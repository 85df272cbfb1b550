"""export_torch.py: the module and its weights, read without PyTorch; in PyTorch, they are run."""

import ast
import importlib.util
import os
import subprocess

import mxnet as mx
import numpy as np
import pytest
import safetensors.numpy
import torch_files
from conftest import ROOT, assert_refused, run_script
from graph.test_gradients import LAYERS, between_layers, draw, error, train_step, without_dropout
from small_checkpoints import SETTINGS, save_int8, save_lenet

import export_torch
import symbols
from common.checkpoint import store
from common.checkpoint.config import save_config
from common.cli import UserError
from common.convert import compare, torch_writer, zoo_import
from common.graph.stock_leaky import decompose_leaky
from common.graph.stock_lrn import decompose_lrn
from symbols import layers

PEERS = os.path.join(ROOT, ".venv-bench", "bin", "python")
CLASSES = ["it's", 'a "name"', "back\\slash", "日本"]
needs_pytorch = pytest.mark.skipif(
    not os.path.exists(PEERS), reason=".venv-bench, which has PyTorch: make test-slow makes it"
)


def run(monkeypatch, prefix, *more):
    command = ["--model-prefix", prefix, "--load-epoch", "1", *map(str, more)]
    monkeypatch.setattr("sys.argv", ["export_torch.py", *command])
    export_torch.main()


@pytest.fixture
def without_pytorch(monkeypatch):
    find_spec = importlib.util.find_spec
    without = lambda wanted: None if wanted == "torch" else find_spec(wanted)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)


def arrays_of(symbol, shape, **options):
    """Random values of all arguments and auxiliary states, and of data (N, C, H, W)."""
    values = draw(symbol, shape, **options)
    rng = np.random.RandomState(0)
    _, _, aux = symbol.infer_shape(data=shape)
    for name, size in zip(symbol.list_auxiliary_states(), aux):
        values[name] = rng.uniform(0.5, 1.5, size).astype(np.float32)
    return values


def converted(symbol, values):
    weights = {name: mx.nd.array(array) for name, array in values.items()}
    return torch_writer.convert(symbol, weights, values["data"].shape[1:])


def text_of(source, image_shape):
    settings = {**SETTINGS, "image_shape": image_shape}
    return torch_writer.module(source, {"args": settings, "classes": CLASSES}, "x-0001.params")


# The text and the file of weights


def constants(path):
    """The constants of a module, which is not run."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    assigned = [node for node in body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in assigned}


def test_a_checkpoint_becomes_a_module_and_its_weights(
    tmp_path, monkeypatch, capsys, without_pytorch
):
    weights = save_lenet(str(tmp_path / "le-net"), CLASSES)
    run(monkeypatch, str(tmp_path / "le-net"))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{tmp_path}/le_net_0001.py and {tmp_path}/le_net_0001.safetensors"
    assert said[1].startswith("not compared with MXNet, as PyTorch is not installed here: pip")

    found = safetensors.numpy.load_file(tmp_path / "le_net_0001.safetensors")
    expected = {name.replace("_", "."): array for name, array in weights.items()}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], array) for name, array in expected.items())
    path = tmp_path / "le_net_0001.py"
    assert constants(path) == {
        "IMAGE_SHAPE": (3, 32, 32),
        "RESIZE": 36,
        "CHANNEL_ORDER": "RGB",
        "MEAN": (120.0, 110.0, 100.0),
        "STD": (60.0, 50.0, 40.0),
        "CLASSES": CLASSES,
    }
    imports = [line for line in path.read_text().splitlines() if "import " in line]
    assert not any("common" in line or "mxnet" in line for line in imports)
    assert "        x = self.c3(x)  # 16 x 10 x 10\n        x = x.tanh()\n" in path.read_text()


def test_files_that_are_there_are_lost_only_with_overwrite(tmp_path, monkeypatch, without_pytorch):
    prefix = str(tmp_path / "x")
    save_lenet(prefix, CLASSES)
    out = tmp_path / "new" / "y"
    out.parent.mkdir()
    weights = out.parent / "y.safetensors"
    weights.write_text("earlier")
    with pytest.raises(UserError, match="--out .*y.safetensors: already exists"):
        run(monkeypatch, prefix, "--out", out)
    assert os.listdir(out.parent) == ["y.safetensors"] and weights.read_text() == "earlier"
    run(monkeypatch, prefix, "--out", f"{out}.py", "--overwrite")
    assert sorted(os.listdir(out.parent)) == ["y.py", "y.safetensors"]


def test_an_int8_checkpoint_is_refused(tmp_path):
    save_lenet(str(tmp_path / "x"), CLASSES)
    save_int8(str(tmp_path / "int8"), str(tmp_path / "x"), CLASSES)
    command = ["--model-prefix", tmp_path / "int8", "--load-epoch", 1, "--out", tmp_path / "y"]
    assert_refused(run_script("export_torch.py", *command), "is int8", "give the float32 one")
    assert not list(tmp_path.glob("y*"))


DATA, W = mx.sym.Variable("data"), mx.sym.Variable("w")


def convolution(net, name):
    return mx.sym.Convolution(net, W, name=name, kernel=(1, 1), num_filter=3)


REFUSED = {
    "Crop crop: .*unknown operator": mx.sym.Crop(DATA, name="crop", h_w=(4, 4), num_args=1),
    "softmax s: .*not the last layer": mx.sym.softmax(DATA, name="s"),
    "LRN n: .*nsize=4": mx.sym.LRN(DATA, name="n", nsize=4),
    "BatchNorm b: .*fix_gamma=True": mx.sym.BatchNorm(DATA, name="b"),
    "Pooling p: .*global_pool=True": mx.sym.Pooling(
        DATA, name="p", global_pool=True, kernel=(1, 1)
    ),
    "Pooling q: .*beyond the map": mx.sym.Pooling(  # of 8: windows at -1, 2, 5, 8
        DATA, name="q", kernel=(2, 2), stride=(3, 3), pad=(1, 1), pooling_convention="full"
    ),
    "Convolution c: .*w is used twice": convolution(convolution(DATA, "d"), "c"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_has_no_form_is_refused_by_name(words):
    net = mx.sym.SoftmaxOutput(mx.sym.Flatten(REFUSED[words]), name="softmax")
    with pytest.raises(UserError, match=words) as refused:
        converted(net, arrays_of(net, (1, 3, 8, 8)))
    assert "\n" not in str(refused.value)


def test_a_network_without_softmax_is_refused():
    net = mx.sym.FullyConnected(DATA, name="f", num_hidden=2)
    for other in (net, mx.sym.Group([mx.sym.softmax(net), net])):
        with pytest.raises(UserError, match="does not end in a softmax"):
            converted(other, arrays_of(net, (1, 3, 8, 8)))


@pytest.mark.parametrize("network", symbols.NETWORKS)
def test_each_network_has_a_form_and_a_line_a_layer(network):
    symbol = symbols.get_symbol(network, 4)
    shape = symbols.IMAGE_SHAPES[network]
    sizes, _, _ = symbol.infer_shape(data=(1, *shape))
    weights = {n: mx.nd.empty(size) for n, size in zip(symbol.list_arguments(), sizes)}
    source = torch_writer.convert(symbol, weights, shape)
    compile(text_of(source, shape), "x.py", "exec")
    nodes = [node for node in symbol.get_internals() if node.list_arguments() != [node.name]]
    assert len(source.forward) == len({node.name for node in nodes})  # softmax: return
    if network == "alexnet_owt":
        keys = [f"{at}.{kind}" for at in zoo_import.TORCHVISION for kind in ("weight", "bias")]
    else:
        named = [name for name in weights if name not in ("data", "softmax_label")]
        keys = [".".join(name.rsplit("_", 1)) for name in named]
    assert list(source.weights) == keys


def forward(symbol, shape):
    return list(converted(symbol, arrays_of(symbol, shape)).forward)


def test_switches_change_their_lines_alone():
    switches = {"knorm": 1, "pooling_convention": "full", "dropout": 0.3, "activation": "rrelu"}
    symbol = symbols.get_symbol("alexnet2012", 4, normalization="lrn-by-column", **switches)
    lines = forward(symbol, (1, 3, 68, 68))
    rrelu = "x = F.rrelu(x, 0.125, 0.3333333333333333, self.training)"
    lrn = "F.local_response_norm({0}, 5, alpha=0.0001, beta=0.75, k=1)"
    assert lines[:8] == [
        "x = self.conv1(x)  # 96 x 15 x 15",
        rrelu,
        "x, y = x.chunk(2, 1)",
        f"x = {lrn.format('x')}",
        f"y = {lrn.format('y')}",
        "x = torch.cat([x, y], 1)  # 96 x 15 x 15",
        "x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)  # 96 x 7 x 7",
        "x = self.conv2(x)  # 256 x 7 x 7",
    ]
    assert lines[-3:] == [
        "x = F.dropout(x, 0.3, self.training)",
        "x = self.fc3(x)  # 4",
        "return x",
    ]

    deployed = forward(compare.without_training(symbol), (1, 3, 68, 68))  # as export_mxnet.py does
    mean = f"x = F.leaky_relu(x, {11 / 48})"
    kept = [mean if line == rrelu else line for line in lines if "dropout" not in line]
    assert deployed == kept


def test_layers_without_bias_and_names_that_python_does_not_take():
    kernel = {"kernel": (3, 1), "dilate": (2, 2), "no_bias": True}
    net = mx.sym.Convolution(DATA, name="1/conv", num_filter=4, **kernel)
    net = mx.sym.FullyConnected(net, name="class", num_hidden=2, no_bias=True)
    net = mx.sym.SoftmaxOutput(net, name="softmax")
    source = converted(net, arrays_of(net, (1, 3, 8, 8)))
    assert list(source.layers) == [
        "self.layer_1_conv = nn.Conv2d(3, 4, (3, 1), dilation=2, bias=False)",
        "self.layer_class = nn.Linear(128, 2, bias=False)",
    ]
    assert list(source.weights) == ["layer_1_conv.weight", "layer_class.weight"]
    assert source.forward[1] == "x = self.layer_class(x.flatten(1))  # 2"


# In PyTorch, in float64, where it computes MXNet's values and right gradients

GRADIENTS = """
import sys
sys.path.insert(0, sys.argv[1])
import network, numpy, torch
net = network.load().double()
with numpy.load(sys.argv[1] + "/in.npz") as file:
    data = torch.tensor(file["data"], dtype=torch.float64)
    label = torch.tensor(file["label"], dtype=torch.long)
found = {"said": net(data).softmax(1)}
torch.nn.functional.cross_entropy(net.train()(data), label, reduction="sum").backward()
found.update({name: one.grad for name, one in net.named_parameters()})
numpy.savez(sys.argv[1] + "/out.npz", **{k: v.detach().numpy() for k, v in found.items()})
"""


def run_in_pytorch(folder, source, values):
    shape = values["data"].shape[1:]
    paths = str(folder / "network.py"), str(folder / "network.safetensors")
    torch_writer.write(text_of(source, shape), source.weights, *paths)
    np.savez(folder / "in.npz", data=values["data"], label=values["softmax_label"])
    subprocess.run([PEERS, "-c", GRADIENTS, folder], check=True, timeout=300)
    with np.load(folder / "out.npz") as file:
        return dict(file)


def mxnets_probabilities(symbol, values):
    weights = {name: mx.nd.array(array) for name, array in values.items()}
    net = compare.without_training(symbol)
    args = {name: weights[name] for name in net.list_arguments() if name != "data"}
    aux = {name: weights[name] for name in net.list_auxiliary_states()}
    return compare.probabilities(net, args, aux, values["data"])


def assert_same_in_pytorch(folder, symbol, values, zero=()):
    """Probabilities, and each parameter's gradient of a step of training without dropout.

    The gradients of ``zero``, biases, are 0 but for rounding; their weights' are the measure.
    """
    source = converted(symbol, values)
    found = run_in_pytorch(folder, source, values)
    expected = mxnets_probabilities(symbol, values)
    assert np.abs(found.pop("said") - expected).max() < 2e-6 * expected.max()  # a layer's bound

    shape = values["data"].shape
    right = decompose_lrn(decompose_leaky(symbol, shape), shape)
    arguments = {name: values[name] for name in right.list_arguments()}
    _, gradients = train_step(right, arguments)
    inputs = ("data", "softmax_label")
    trained = [name for name in symbol.list_arguments() if name not in inputs]
    parameters = [key for key in source.weights if "running" not in key]
    assert found.keys() == set(parameters) and len(trained) == len(parameters)
    for name, key in zip(trained, parameters):
        if name in zero:
            scale = np.abs(found[key.replace("bias", "weight")]).max()
            assert np.abs(gradients[name] - found[key]).max() < 1e-5 * scale, name
        else:
            assert error(gradients[name], found[key]) < 1e-5, name


@pytest.mark.slow
@needs_pytorch
@pytest.mark.parametrize(
    "network, options, shape, scale, seed",  # seeds without a decision too close to call
    [
        ("alexnet", {}, (2, 3, 67, 67), 60, 9),
        ("alexnet", {"normalization": "none"}, (2, 3, 67, 67), 1, 10),
        ("alexnet", {"pooling": "plain"}, (2, 3, 67, 67), 1, 3),
        ("alexnet2012", {}, (2, 3, 67, 67), 60, 1),
        ("alexnet2012", {"normalization": "lrn-by-column"}, (2, 3, 67, 67), 1, 9),
        ("alexnet2012", {"knorm": 1, "pooling_convention": "full"}, (2, 3, 103, 67), 30, 2),
        ("alexnet145", {}, (2, 3, 67, 67), 1, 0),
        ("caffenet", {}, (2, 3, 103, 67), 30, 2),
        ("alexnet_owt", {}, (2, 3, 67, 67), 1, 0),
        ("lenet", {}, (3, 1, 32, 32), 1, 0),
    ],
)
def test_networks_train_on_in_pytorch(tmp_path, network, options, shape, scale, seed):
    symbol = without_dropout(symbols.get_symbol(network, 10, **options))
    assert_same_in_pytorch(tmp_path, symbol, arrays_of(symbol, shape, scale=scale, seed=seed))


@pytest.mark.slow
@needs_pytorch
@pytest.mark.parametrize("kind", [*LAYERS, "rrelu", "bn-before", "bn-after"])
def test_activations_and_batch_norm_train_on_in_pytorch(tmp_path, kind):
    order = [layers.batch_norm, LAYERS["tanh"]]
    before, after = order if kind == "bn-before" else order[::-1]
    layer = LAYERS.get(kind) or (lambda net, name: after(before(net, name), name))
    if kind == "rrelu":  # of one slope: it is random else
        bounds = {"lower_bound": 0.25, "upper_bound": 0.25}
        layer = lambda net, _: mx.sym.LeakyReLU(net, act_type="rrelu", **bounds)[0]  # noqa: E731
    symbol = between_layers(layer)
    values = arrays_of(symbol, (8, 3, 16, 16), classes=5, seed=3 * (kind in ("prelu", "rrelu")))
    zero = [f"{name}_bias" for name in "abc"] if kind == "bn-before" else []
    assert_same_in_pytorch(tmp_path, symbol, values, zero)


@pytest.mark.slow
@needs_pytorch
@pytest.mark.parametrize("kind", layers.ACTIVATIONS)
def test_the_proof_passes_the_networks_own_form_and_no_other(kind):
    symbol = symbols.get_symbol("alexnet", 10, activation=kind, normalization="bn-before")
    values = arrays_of(symbol, (2, 3, 67, 67))
    source, expected = converted(symbol, values), mxnets_probabilities(symbol, values)
    text = text_of(source, (3, 67, 67))
    images = values["data"]
    assert torch_writer.difference(text, source.weights, images, expected, PEERS) < 1e-5
    wrong = text.replace("x = self.fc3(x)", "x = self.fc3(x) * 1.01")
    with pytest.raises(UserError, match="PyTorch: differs .*nothing is written"):
        torch_writer.difference(wrong, source.weights, images, expected, PEERS)
    with pytest.raises(UserError, match="PyTorch: cannot run the module .*'fc4'"):
        wrong = text.replace("x = self.fc3(x)", "x = self.fc4(x)")
        torch_writer.difference(wrong, source.weights, images, expected, PEERS)


TORCHVISION = f"""{torch_files.ALEXNET}
import numpy, safetensors.torch, torch
net = alexnet(num_classes=4).eval()
net.load_state_dict(safetensors.torch.load_file(sys.argv[1] + "/x_0001.safetensors"))
images = torch.from_numpy(numpy.load(sys.argv[1] + "/images.npy"))
with torch.no_grad():
    numpy.save(sys.argv[1] + "/said.npy", torch.softmax(net(images), 1).numpy())
"""


@pytest.mark.slow
@needs_pytorch
def test_torchvisions_own_class_loads_alexnet_owt(tmp_path, monkeypatch, without_pytorch):
    symbol = symbols.get_symbol("alexnet_owt", len(CLASSES))
    values = draw(symbol, (2, 3, 224, 224), classes=4)
    np.save(tmp_path / "images.npy", values["data"])
    named = {n: mx.nd.array(a) for n, a in values.items() if n not in ("data", "softmax_label")}
    settings = {**SETTINGS, "image_shape": [3, 224, 224], "num_classes": len(CLASSES)}
    save_config(str(tmp_path / "x"), settings, CLASSES)
    store.save(str(tmp_path / "x"), 1, symbol, named, {})
    run(monkeypatch, str(tmp_path / "x"))
    subprocess.run([PEERS, "-c", TORCHVISION, tmp_path], check=True, timeout=300, cwd=ROOT)
    expected = mxnets_probabilities(symbol, values)
    said = np.load(tmp_path / "said.npy")
    assert np.abs(said - expected).max() < 1e-6 * expected.max()
