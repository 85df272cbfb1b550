"""Loss and accuracy."""

from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from conftest import bands, write_records

import symbols
from common import records
from common.evaluate import Evaluator, Scores


def test_figures_equal_those_counted_one_by_one():
    rng = np.random.RandomState(0)
    probabilities = rng.dirichlet(np.ones(7), size=50).astype(np.float32)
    labels = rng.randint(0, 7, 50)
    scores = Scores(top_k=3)
    scores.update(probabilities[:17], labels[:17])
    scores.update(probabilities[17:], labels[17:])
    ranked = np.argsort(-probabilities, axis=1)
    assert scores.count == 50
    assert scores.top1 == np.mean([label == row[0] for label, row in zip(labels, ranked)])
    assert scores.topk == np.mean([label in row[:3] for label, row in zip(labels, ranked)])
    assert scores.loss == pytest.approx(-np.mean(np.log(probabilities[range(50), labels])))


@pytest.mark.parametrize("value", [0.1, float("nan")])
def test_a_network_that_says_nothing_scores_nothing(value):
    scores = Scores(top_k=5)
    scores.update(np.full((4, 10), value, np.float32), np.array([0, 3, 5, 9]))
    assert scores.top1 == scores.topk == 0


def test_other_weights_give_their_own_scores(tmp_path):
    """MXNet's CPU build keeps the first weights a bound module runs with; ours must not."""
    path = write_records(tmp_path / "x", *bands(6, seed=1, size=67, channels=3))
    args = SimpleNamespace(
        batch_size=4, image_shape=(3, 67, 67), top_k=2, resize=None, rgb_mean=[100.0] * 3,
        rgb_std=[60.0] * 3, data_nthreads=1, verbose=False,
    )  # fmt: skip
    symbol = symbols.get_symbol("alexnet", 3)

    def draw(seed):
        mx.random.seed(seed)
        module = mx.mod.Module(symbol)
        module.bind([("data", (1, 3, 67, 67))], [("softmax_label", (1,))])
        module.init_params(mx.init.MSRAPrelu())
        return module.get_params()

    evaluators = [Evaluator(symbol, [mx.cpu()], args, records.scan(path)) for _ in range(2)]
    first, second = draw(1), draw(2)
    evaluators[0](*first)
    assert evaluators[0](*second).loss == evaluators[1](*second).loss
    assert evaluators[1](*first).loss != evaluators[1](*second).loss
