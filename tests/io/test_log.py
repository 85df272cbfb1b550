"""What a run says: on the terminal, and in its log of JSON lines."""

import json

import pytest

from common.io.log import Forecast, RunLog


def said(capsys, tmp_path, seconds, **options):
    """What a Forecast says and logs of batches that take so long."""
    path = tmp_path / "log.jsonl"
    forecast = Forecast(RunLog(str(path)), **options)
    for batch in seconds:
        forecast.update(batch)
    return capsys.readouterr().out.splitlines(), list(
        map(json.loads, path.read_text().splitlines())
    )


@pytest.mark.parametrize(
    "seconds, images, line, whole",
    [
        ([9, 9] + [0.5] * 40, 144_000, "about 12 minutes for 3 epochs at 200 img/s", 720),
        ([9, 9] + [2.5] * 4, 100_000, "about 42 minutes for 3 epochs at 40 img/s", 2500),
        ([9, 9, 100, 100], 100_000, "about 28 hours for 3 epochs at 1 img/s", 100_000),
        ([9, 9] + [0.1] * 20, 50_000, "about 50 seconds for 3 epochs at 1000 img/s", 50),
    ],
)
def test_the_forecast_is_said_once_by_20_batches_or_10_seconds(
    capsys, tmp_path, seconds, images, line, whole
):
    options = {"images": images, "batch_size": 100, "title": "3 epochs"}
    lines, logged = said(capsys, tmp_path, seconds, **options)
    assert lines == [f"{line}, validation not counted"]
    assert [(event["event"], event["seconds"]) for event in logged] == [("forecast", whole)]
    assert said(capsys, tmp_path, seconds[: len(seconds) // 2], **options) == ([], [])
