"""Loss and accuracy."""

import numpy as np
import pytest

from common.evaluate import Scores


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
