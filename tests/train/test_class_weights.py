"""--class-weights: in the gradient while it trains, and in no checkpoint."""

import os
import signal

import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, assert_same_arrays, bands, before_batch, train, write_records

import symbols
from common.checkpoint import store
from common.checkpoint.config import load_config
from common.cli import UserError
from common.graph.weighted_loss import weighted
from common.input.class_weights import class_weights
from common.records.scan import scan_records
from common.train import binding
from common.train.gradients import Gradients
from common.train.schedule import LearningRate

NAMES = ["top", "middle", "a bottom"]
COUNTS = [40, 16, 8]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """64 pictures of three classes, few of the last ones."""
    images, labels = bands(120, seed=1)
    chosen = np.concatenate([np.flatnonzero(labels == i)[:n] for i, n in enumerate(COUNTS)])
    path = tmp_path_factory.mktemp("few") / "x"
    return write_records(path, [images[i] for i in chosen], labels[chosen], NAMES)


@pytest.fixture
def flags(path):
    lenet = ["--network", "lenet", "--dataset", "mnist", "--deterministic", "--batch-size", 16]
    return [*lenet, "--data-train", path, "--data-val", path, "--num-epochs", 2]


def gradients(data, labels, weights, devices=1, parts=1):
    """The network's probabilities and its gradients for one batch."""
    shape = (len(data) // parts, *data.shape[1:])
    settings = binding.ModuleSettings(LearningRate(0.1), weighted=weights is not None)
    contexts = [mx.cpu(i) for i in range(devices)]
    module = binding.bind(symbols.get_symbol("lenet", 3), contexts, shape, settings)
    batch = mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(labels)])
    said = Gradients(module, parts, weights).compute(batch)
    group = module._exec_group
    sums = (sum(one.asnumpy() for one in arrays) for arrays in group.grad_arrays)
    return said, dict(zip(group.param_names, sums))


@pytest.mark.parametrize("devices, parts", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_an_image_of_weight_3_counts_as_three(devices, parts):
    rng = np.random.RandomState(0)
    data, labels = rng.normal(size=(16, 1, 32, 32)), rng.randint(0, 3, 16)
    said, found = gradients(data, labels, [1.0, 3.0, 0.0], devices, parts)
    rows = np.repeat(np.arange(16), np.array([1, 3, 0])[labels])
    _, expected = gradients(data[rows], labels[rows], None)
    assert len(rows) not in (0, 16)
    for name in expected:
        scale = abs(expected[name]).max()
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5 * scale)
    assert np.array_equal(said, gradients(data, labels, None, devices, parts)[0])


def test_what_the_graph_computes_stays_to_the_last_bit_with_any_weight():
    symbol = symbols.get_symbol("lenet", 3)
    outputs = []
    for graph in (symbol, weighted(symbol)):
        labels = [n for n in graph.list_arguments() if n.startswith("softmax_")]
        module = mx.mod.Module(graph, label_names=labels)
        module.bind([("data", (8, 1, 32, 32))], [(name, (8,)) for name in labels])
        mx.random.seed(1)
        module.init_params(mx.init.Normal(3))  # logits beyond 1,000
        data = mx.nd.array(np.random.RandomState(1).normal(size=(8, 1, 32, 32)))
        label = [
            mx.nd.array([0, 1, 2, 0, 1, 2, 0, 1]),
            mx.nd.array([1e-20, 0, 3, 0.7, 1e9, 5, 1, 9]),
        ]
        module.forward(mx.io.DataBatch([data], label[: len(labels)]), is_train=True)
        outputs.append(module.get_outputs()[0].asnumpy())
    assert np.array_equal(*outputs)


def test_balanced_makes_the_classes_count_alike_and_an_image_1_on_average(path):
    records = scan_records(path)
    weights = class_weights("balanced", records, 5)  # two classes have no images
    assert np.allclose(np.multiply(weights[:3], COUNTS), 64 / 3)
    assert np.mean(np.take(weights, records.labels.astype(int))) == pytest.approx(1)


def test_equal_weights_change_nothing_and_others_the_weights_but_not_the_graph(flags, tmp_path):
    equal = tmp_path / "equal.txt"
    equal.write_text("\ufeffmiddle 1\n\na bottom\t1.0\n top  1e0\n", encoding="utf-8")
    for name, more in (
        ("none", []),
        ("equal", ["--class-weights", equal]),
        ("balanced", ["--class-weights", "balanced"]),
    ):
        result = train(*flags, *more, "--model-prefix", tmp_path / name)
        assert result.returncode == 0, result.stderr
    assert "+class-weights balanced" in result.stdout
    none = tmp_path / "none-0002.params"
    assert_same_arrays(none, tmp_path / "equal-0002.params")
    with pytest.raises(AssertionError):
        assert_same_arrays(none, tmp_path / "balanced-0002.params")
    plain = symbols.get_symbol("lenet", 3)
    assert (tmp_path / "balanced-symbol.json").read_text() == plain.tojson()
    assert load_config(str(tmp_path / "balanced"))["classes"] == NAMES


def test_resume_is_exact(flags, tmp_path):
    flags = [*flags, "--class-weights", "balanced", "--model-prefix"]
    assert train(*flags, tmp_path / "whole").returncode == 0
    with before_batch(5, lambda: signal.raise_signal(signal.SIGTERM)):
        assert train(*flags, tmp_path / "x").returncode == 143
    assert train(*flags, tmp_path / "x", "--resume").returncode == 0
    assert store.numbers(str(tmp_path / "x")) == [1, 2]
    assert_same_arrays(tmp_path / "x-0002.params", tmp_path / "whole-0002.params")


def test_a_file_that_has_changed_is_refused_by_resume(flags, tmp_path):
    weights = tmp_path / "weights.txt"
    flags = [*flags, "--class-weights", weights, "--model-prefix", tmp_path / "x"]
    weights.write_text("top 1\nmiddle 2\na bottom 3\n")
    assert train(*flags).returncode == 0
    weights.write_text("top 1\nmiddle 2\na bottom 4\n")
    assert_refused(train(*flags, "--resume"), "with other --class-weights")
    weights.write_text("a bottom 3\nmiddle 2\ntop 1\n")
    assert train(*flags, "--resume").returncode == 0


@pytest.mark.parametrize(
    "text, words",
    [
        ("top 1\nmiddle 2\n", "a bottom is missing"),
        ("top 1\nmiddle 2\nbottom 3\n", "bottom is not one of the classes, such as top"),
        ("top 1\ntop 2\n", "top is listed twice"),
        ("top 1\nmiddle two\n", "'middle two' is not a class and a weight"),
        ("top -1\n", "'top -1' is not"),
        ("top nan\n", "'top nan' is not"),
        ("top inf\n", "'top inf' is not"),
        ("1\n2\n3\n", "'1' is not"),
        ("top 0\nmiddle 0\na bottom 0\n", "all weights are 0"),
        ("", "top is missing"),
        ("top 1\nm\xe9dium 2\n", "is not UTF-8"),
    ],
)
def test_a_file_that_does_not_say_it_is_refused(flags, tmp_path, text, words):
    (tmp_path / "w.txt").write_bytes(text.encode("latin-1"))
    result = train(*flags, "--class-weights", tmp_path / "w.txt", "--model-prefix", tmp_path / "x")
    assert_refused(result, f"--class-weights {tmp_path / 'w.txt'}: ", words)
    assert os.listdir(tmp_path) == ["w.txt"]


def test_what_is_no_file_is_refused(flags, tmp_path):
    assert_refused(train(*flags, "--class-weights", "balance"), "balance: No such file")
    assert_refused(train(*flags, "--class-weights", tmp_path), "Is a directory; give balanced or")
    synthetic = ["--benchmark", 1, "--num-classes", 3, "--class-weights", "balanced"]
    assert_refused(train(*flags, *synthetic), "--class-weights: needs --data-train")


def test_records_without_names_have_numbers(tmp_path):
    records = scan_records(write_records(tmp_path / "x", *bands(6, seed=1)))
    (tmp_path / "w.txt").write_text("0 1\n2 3\n1 2\n")
    assert class_weights(str(tmp_path / "w.txt"), records, 3) == [1, 2, 3]
    with pytest.raises(UserError, match="3 is missing"):
        class_weights(str(tmp_path / "w.txt"), records, 4)
