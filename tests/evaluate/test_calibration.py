"""Calibration: the error, the temperature, and what score.py and predict.py make of them."""

import json

import numpy as np
import pytest
from conftest import assert_refused, bands, run_here, write_records
from pictures import file, photo
from small_checkpoints import save_lenet

import predict
import score
from common.checkpoint.config import load_config
from common.cli import UserError
from common.evaluate import calibration

CLASSES = ["top", "middle", "bottom"]


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def drawn():
    """Logits, and labels that are drawn with their probabilities."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    labels = (softmax(logits).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    return logits, labels


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_what_logits_were_multiplied_by(drawn, factor):
    logits, labels = drawn
    said = softmax(factor * logits)
    temperature = calibration.fit_temperature(said, labels)
    assert temperature == pytest.approx(factor, rel=0.05)
    mended = calibration.scaled(said, temperature)
    assert calibration.calibration_error(mended, labels) < 0.01
    assert (calibration.calibration_error(said, labels) > 0.1) == (factor != 1)
    assert np.array_equal(mended.argmax(axis=1), said.argmax(axis=1))


def test_the_error_is_the_mean_difference_over_the_bins():
    said = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.35, 0.65]])
    labels = np.array([0, 1, 0, 0])  # .9: half are right; .6: all; .65: none
    assert calibration.calibration_error(said, labels) == pytest.approx(
        (2 * 0.4 + abs(0.4 - 0.65)) / 4
    )


@pytest.fixture
def made(tmp_path):
    """A checkpoint with random weights, and flags that name it and 60 records."""
    prefix = str(tmp_path / "x")
    save_lenet(prefix, CLASSES)
    records = write_records(tmp_path / "val", *bands(60, seed=1, size=40, channels=3), CLASSES)
    return prefix, ["--model-prefix", prefix, "--load-epoch", 1], ["--data-val", records]


def test_score_fits_keeps_and_uses_the_temperature(made, tmp_path):
    prefix, checkpoint, data = made
    result = run_here(score.main, *checkpoint, *data)
    assert result.returncode == 0 and "calibration" not in result.stdout

    fitted = run_here(score.main, *checkpoint, *data, "--fit-temperature")
    assert fitted.returncode == 0, fitted.stderr
    assert "which was fitted to these images\n" in fitted.stdout
    kept = load_config(prefix)["calibration"]
    assert (kept["epoch"], kept["images"]) == (1, 60)

    again = run_here(score.main, *checkpoint, *data, "--json", tmp_path / "x.json")
    figures = json.loads((tmp_path / "x.json").read_text())
    assert figures["temperature"] == kept["temperature"]
    line = "expected calibration error {:.2%}, {:.2%} with the temperature {:.3f}\n".format(
        figures["calibration_error"],
        figures["calibration_error_with_temperature"],
        figures["temperature"],
    )
    assert line in again.stdout


def test_predict_says_none_of_these_below_the_threshold(made, tmp_path):
    prefix, checkpoint, data = made
    picture = tmp_path / "a.png"
    picture.write_bytes(file(".png", photo(40, 40)))
    command = [*checkpoint, picture, "--format", "jsonl", "--top-k", 3]
    assert_refused(run_here(predict.main, *command, "--threshold", 0.5), "--fit-temperature")
    assert run_here(score.main, *checkpoint, *data, "--fit-temperature").returncode == 0

    plain = json.loads(run_here(predict.main, *command).stdout)["guesses"]
    low = json.loads(run_here(predict.main, *command, "--threshold", 0.01).stdout)["guesses"]
    expected = calibration.scaled(
        [guess["probability"] for guess in plain], load_config(prefix)["calibration"]["temperature"]
    )
    assert [guess["name"] for guess in low] == [guess["name"] for guess in plain]
    assert [guess["probability"] for guess in low] == pytest.approx(expected.tolist(), rel=1e-4)

    for form, said in (
        ("jsonl", '"guesses": []'),
        ("csv", f"{picture},,none of these,\n"),
        ("text", "  none of these\n"),
    ):
        high = run_here(predict.main, *checkpoint, picture, "--threshold", 1, "--format", form)
        assert said in high.stdout and high.returncode == 0


def test_a_temperature_is_that_of_one_epoch(made):
    prefix, checkpoint, data = made
    assert run_here(score.main, *checkpoint, *data, "--fit-temperature").returncode == 0
    with pytest.raises(UserError, match="epoch 2; python score.py .* --load-epoch 2 "):
        calibration.needed_temperature(prefix, 2)
