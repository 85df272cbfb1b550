"""Loss and accuracy."""

import mxnet as mx
import numpy as np
import pytest
from conftest import bands, write_records

import symbols
from common.evaluate import network
from common.evaluate.evaluator import Evaluator
from common.evaluate.scores import Scores, wilson
from common.input.preparation import Preparation
from common.records.scan import scan_records


def test_figures_equal_those_counted_one_by_one():
    rng = np.random.RandomState(0)
    probabilities = rng.dirichlet(np.ones(7), size=50).astype(np.float32)
    labels = rng.randint(0, 7, 50)
    scores = Scores(top_k=3)
    scores.update(probabilities[:17], labels[:17])
    scores.update(probabilities[17:], labels[17:])
    ranked = np.argsort(-probabilities, axis=1)
    assert scores.count == 50
    assert scores.figures() == {
        "loss": pytest.approx(-np.mean(np.log(probabilities[range(50), labels]))),
        "top-1": np.mean([label == row[0] for label, row in zip(labels, ranked)]),
        "top-3": np.mean([label in row[:3] for label, row in zip(labels, ranked)]),
    }


@pytest.mark.parametrize("value", [0.1, float("nan")])
def test_a_network_that_says_nothing_scores_nothing(value):
    scores = Scores(top_k=5)
    scores.update(np.full((4, 10), value, np.float32), np.array([0, 3, 5, 9]))
    assert scores.figures()["top-1"] == scores.figures()["top-5"] == 0


@pytest.mark.parametrize(
    "right, count, low, high",
    [(8, 10, 0.4902, 0.9433), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (50, 100, 0.4038, 0.5962)],
)
def test_the_interval_is_wilsons(right, count, low, high):
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("sides", [(41, 50), (54, 41), (41, 41)])
def test_ten_crops_are_the_average_over_those_cut_by_hand(tmp_path, sides):
    """Pictures whose short side is --resize, so that nothing is interpolated."""
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (5, *sides, 3)).astype(np.uint8)
    labels = np.array([0, 1, 2, 1, 0])
    path = write_records(tmp_path / "x", images, labels)
    symbol = symbols.get_symbol("lenet", 3)
    mx.random.seed(1)
    weights = mx.mod.Module(symbol)
    weights.bind([("data", (1, 3, 36, 32))], [("softmax_label", (1,))])
    weights.init_params(mx.init.Xavier(magnitude=6))

    top, left = (sides[0] - 41) // 2, (sides[1] - 41) // 2
    square = images[:, top : top + 41, left : left + 41, ::-1].transpose(0, 3, 1, 2)
    said = []
    for y, x in [(0, 0), (0, 9), (5, 0), (5, 9), (2, 4)]:
        crop = (square[:, :, y : y + 36, x : x + 32] - np.float32(100)) / np.float32(60)
        for view in (crop, crop[..., ::-1]):
            module = network.bind(symbol, *weights.get_params(), view.shape, [mx.cpu()])
            module.forward(mx.io.DataBatch([mx.nd.array(view)]), is_train=False)
            said.append(module.get_outputs()[0].asnumpy())
    expected = Scores(top_k=2)
    expected.update(np.mean(said, axis=0), labels)
    assert np.std(said, axis=0).max() > 0.01  # the crops differ

    preparation = Preparation((3, 36, 32), 41, (100.0,) * 3, (60.0,) * 3)
    found = scan_records(path)
    for batch_size in (1, 2, 5, 8):
        evaluator = Evaluator(symbol, [mx.cpu()], found, preparation, batch_size, 1, crops=10)
        scores = evaluator.evaluate(*weights.get_params(), Scores(top_k=2))
        assert scores.loss == pytest.approx(expected.loss, rel=1e-5)
        assert scores.right() == expected.right() and scores.count == 5


def test_other_weights_give_their_own_scores(tmp_path):
    """MXNet's CPU build keeps the first weights a bound module runs with; ours must not."""
    path = write_records(tmp_path / "x", *bands(6, seed=1, size=67, channels=3))
    preparation = Preparation((3, 67, 67), None, (100.0,) * 3, (60.0,) * 3)
    symbol = symbols.get_symbol("alexnet", 3)

    def draw(seed):
        mx.random.seed(seed)
        module = mx.mod.Module(symbol)
        module.bind([("data", (1, 3, 67, 67))], [("softmax_label", (1,))])
        module.init_params(mx.init.MSRAPrelu())
        return module.get_params()

    found, first, second = scan_records(path), draw(1), draw(2)
    evaluators = [Evaluator(symbol, [mx.cpu()], found, preparation, 4, 1) for _ in range(2)]
    evaluators[0].evaluate(*first, Scores(2))
    losses = [evaluator.evaluate(*second, Scores(2)).loss for evaluator in evaluators]
    assert losses[0] == losses[1]
