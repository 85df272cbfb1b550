"""The learning rate of each update, at the edges."""

import math
from types import SimpleNamespace

import pytest

from common.cli import UserError
from common.train.recipes import scaled_rate
from common.train.schedule import LearningRate, Length


@pytest.mark.parametrize("schedule", ["step", "linear", "cosine"])
@pytest.mark.parametrize("batches, warmup", [(1, 0.5), (2, 0.99), (7, 0.95), (7, 0.99), (7, 0.01)])
def test_a_warm_up_that_rounds_to_the_whole_run_leaves_an_update(schedule, batches, warmup):
    length = Length(images=batches * 16, batch_size=16, num_epochs=1)
    scheduler = LearningRate(0.1, schedule, warmup_epochs=warmup).scheduler(length)
    rates = [scheduler(update) for update in range(1, batches + 1)]
    assert all(math.isfinite(rate) and 0 <= rate <= 0.1 for rate in rates)


def test_steps_that_fall_on_the_same_update_are_refused():
    steps = LearningRate(0.1, "step", (1, 1.01))
    with pytest.raises(
        UserError, match="--lr-step-epochs: two steps fall on the same of 7 updates"
    ):
        steps.scheduler(Length(images=7 * 16, batch_size=16, num_epochs=3))
    assert steps.scheduler(Length(images=700 * 16, batch_size=16, num_epochs=3))


def test_a_step_before_the_first_update_is_at_the_first():
    scheduler = LearningRate(0.1, "step", (0.01,)).scheduler(Length(7 * 16, 16, num_epochs=1))
    assert [scheduler(update) for update in (1, 2)] == pytest.approx([0.1, 0.01])


@pytest.mark.parametrize("lr_batch, rate", [(None, 0.01), (128, 0.08), (2048, 0.005)])
def test_the_rate_grows_with_the_batch_of_an_update(lr_batch, rate):
    args = SimpleNamespace(lr=0.01, batch_size=256, accumulate=4, lr_batch=lr_batch)
    assert scaled_rate(args) == pytest.approx(rate)
