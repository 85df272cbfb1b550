"""Networks of a user's own: symbols/NAME.py with a get_symbol."""

import argparse

import pytest
from conftest import assert_refused, operators, train

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
        (NETWORK.replace("softmax", "loss"), "bad.py: get_symbol has to .*name='softmax'"),
        (NETWORK.replace('"data"', '"x"'), "bad.py: get_symbol has to read .*'data'"),
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
