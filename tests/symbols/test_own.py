"""Networks of a user's own: symbols/NAME.py with a get_symbol."""

import argparse
import re

import mxnet as mx
import pytest
from conftest import assert_refused, operators, run_here, train

import score
import symbols
from symbols import own

NETWORK = """
import mxnet as mx

def get_symbol(num_classes=5, **kwargs):
    net = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3))
    net = mx.sym.Activation(net, act_type="relu")
    net = mx.sym.FullyConnected(mx.sym.Flatten(net), num_hidden=num_classes)
    return mx.sym.SoftmaxOutput(net, name="softmax")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where files are found as if they lay in symbols/."""
    monkeypatch.setattr(own, "_FOLDER", str(tmp_path))
    monkeypatch.setattr(symbols, "__path__", [*symbols.__path__, str(tmp_path)])
    return tmp_path


def test_each_file_of_ours_is_a_network_or_a_helper():
    assert set(own.names()) == set(symbols.NETWORKS)


def test_a_users_file_is_trained_with_the_recipe_of_the_data_set(folder, grey, tmp_path):
    (folder / "my-net.py").write_text(NETWORK)
    flags = ["--network", "my-net", "--dataset", "mnist", "--num-epochs", 1, "--lr", 0.01]
    prefix = tmp_path / "x"
    result = train(*flags, "--data-train", grey.train, "--model-prefix", prefix)
    assert result.returncode == 0, result.stderr
    said = " ".join(result.stdout.split())
    assert "my-net, 3 classes, images 1,32,32" in said and "recipe for mnist: lenet's" in said


def test_its_nodes_have_the_same_names_each_time(folder):
    (folder / "mine.py").write_text(NETWORK)
    graphs = [symbols.get_symbol("mine", 3).tojson() for _ in range(2)]
    assert graphs[0] == graphs[1]
    assert list(operators(symbols.get_symbol("mine")))[:2] == ["convolution0", "activation0"]


@pytest.mark.parametrize(
    "content, words",
    [
        ("x = (", "bad.py, line 1: SyntaxError"),
        ("\nimport nothing_like_it", "bad.py, line 2: ModuleNotFoundError: No module named"),
        ("x = 1", "bad.py: AttributeError: .*get_symbol"),
        ("def get_symbol(num_classes, num_layers):\n    pass", "bad.py: TypeError: .*num_layers"),
        (
            "def get_symbol(**options):\n    return 1",
            "bad.py: get_symbol returns no Symbol, but int",
        ),
        (NETWORK.replace("softmax", "loss"), "bad.py: the network has to .*name='softmax'"),
        (NETWORK.replace('"data"', '"x"'), "bad.py: the network has to read .*'data'"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_line(content, words, folder, request):
    request.addfinalizer(lambda: own.importlib.sys.modules.pop("symbols.bad", None))
    (folder / "bad.py").write_text(content)
    with pytest.raises(ValueError, match=words):
        symbols.get_symbol("bad", 3)
    assert_refused(train("--network", "bad", "--benchmark", 1), "--network", "bad.py")


@pytest.mark.parametrize("name", ["none", "layers", "__main__", "../symbols/alexnet"])
def test_what_is_no_network_is_unknown(name):
    with pytest.raises(
        argparse.ArgumentTypeError, match="is unknown; choose from alexnet, alexnet"
    ):
        symbols.known(name)
    with pytest.raises(ValueError, match="is unknown; choose"):
        symbols.get_symbol(name)


def graph(tmp_path, name="softmax", classes=3, other=None):
    """The path of a saved network that reads ``data`` and, if there is, another input."""
    net = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), name="c")
    net = mx.sym.Activation(net, act_type="tanh")
    net = mx.sym.FullyConnected(net, num_hidden=classes, name="f")
    if other:
        net = net + mx.sym.FullyConnected(mx.sym.Variable(other), num_hidden=classes, name="g")
    mx.sym.SoftmaxOutput(net, name=name).save(str(tmp_path / "mine-symbol.json"))
    return tmp_path / "mine-symbol.json"


def test_a_saved_graph_is_trained_resumed_scored_and_named(grey, tmp_path):
    path, prefix = graph(tmp_path), tmp_path / "x"
    flags = ["--symbol", path, "--dataset", "mnist", "--lr", 0.01, "--deterministic"]
    flags += ["--data-train", grey.train, "--model-prefix", prefix, "--num-epochs"]
    for epochs in (1, 2):
        result = train(*flags, epochs, "--resume")
        assert result.returncode == 0, result.stderr
    assert f"resuming from {prefix}-0001.params" in result.stdout
    saved = mx.sym.load(f"{prefix}-symbol.json")
    assert saved.tojson() == mx.sym.load(str(path)).tojson()
    where = ["--model-prefix", prefix, "--load-epoch", 2]
    scored = run_here(score.main, *where, "--data-val", grey.val)
    assert "101 images" in scored.stdout, scored.stderr
    other = train("--network", "lenet", *flags[2:], 2, "--resume")
    assert_refused(other, "--network lenet", "was trained with", "mine-symbol.json")


@pytest.mark.parametrize(
    "made, words",
    [
        ({"name": "loss"}, "mine-symbol.json: the network has to .*name='softmax'"),
        ({"classes": 7}, "mine-symbol.json: the network has 7 outputs, and the data 3 classes"),
        ({"other": "age"}, "mine-symbol.json: the network needs age besides data"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(made, words, grey, tmp_path):
    flags = ["--dataset", "mnist", "--data-train", grey.train, "--model-prefix", tmp_path / "x"]
    result = train("--symbol", graph(tmp_path, **made), *flags)
    assert_refused(result, "--symbol")
    assert re.search(words, result.stderr)
    assert [file.name for file in tmp_path.iterdir()] == ["mine-symbol.json"]


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"nodes": [{"op": "None"}]}', "\xff"])
def test_a_file_that_is_no_graph_is_refused(content, tmp_path):
    path = tmp_path / "x-symbol.json"
    assert_refused(train("--symbol", path, "--benchmark", 1), "x-symbol.json: no such file")
    path.write_text(content, encoding="latin-1")
    assert_refused(train("--symbol", path, "--benchmark", 1), "x-symbol.json: is no graph")
    assert_refused(train("--symbol", tmp_path / "x.params", "--benchmark", 1), "no X-symbol.json")
    both = train("--symbol", path, "--network", "lenet", "--benchmark", 1)
    assert_refused(both, "--network: not allowed with", "--symbol")
