"""How prediction prepares a picture: as evaluation does, however long the picture is."""

import cv2
import numpy as np
import pytest
from conftest import write_records
from pictures import photo

from common.input import pipeline
from common.input.preparation import Preparation
from common.records.scan import scan_records


@pytest.mark.parametrize(
    "size", [(37, 53), (64, 40), (20, 20), (24, 31), (90, 69), (69, 90), (53, 26)]
)
@pytest.mark.parametrize("resize", [None, 22, 30])
def test_prediction_prepares_a_picture_as_evaluation_does(tmp_path, size, resize):
    image = np.random.RandomState(1).randint(0, 255, (*size, 3)).astype(np.uint8)
    path = write_records(tmp_path / "one", [image], [0])
    preparation = Preparation((3, 20, 20), resize, (10, 20, 30), (2, 3, 4))
    batch, _ = next(pipeline.evaluation_batches(scan_records(path), preparation, 1, threads=1))
    ours = preparation.apply(image)
    assert np.abs(batch.data[0].asnumpy()[0] - ours).max() <= 0.5 + 1e-6  # one grey level / std


def test_what_is_beyond_black_and_white_is_shown_black_and_white():
    planes = np.float32([-9, 0, 1, 255, 256, 300]).reshape(1, 1, 6)
    shown = Preparation((1, 1, 6), None, (0,), (1,)).shown(planes)
    assert shown[0].tolist() == [[level] * 3 for level in (0, 0, 1, 255, 255, 255)]


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize(
    "size, resize",
    [((1, 300), 32), ((4, 300), 32), ((4, 303), 24), ((7, 300), 22), ((3, 41), None)],
)
def test_what_would_become_large_is_cut_first_and_looks_the_same(monkeypatch, size, resize, turn):
    image = photo(*size)  # without edges, which half a pixel aside would change much
    image = image.swapaxes(0, 1) if turn else image
    preparation = Preparation((3, 20, 20), resize, (0, 0, 0), (1, 1, 1))
    whole = preparation.apply(image)
    monkeypatch.setattr("common.input.preparation._LARGE", 0)
    seen, resized = [], cv2.resize
    monkeypatch.setattr(
        cv2, "resize", lambda cut, *a, **k: seen.append(cut) or resized(cut, *a, **k)
    )
    cut = preparation.apply(image)
    assert seen[0].size < image.size
    exact = resize is not None and resize % min(size) == 0
    # Else the centre may lie one pixel of the resized picture aside.
    aside = [np.abs(np.roll(cut, n, axis=1 if turn else 2) - whole) for n in (-1, 0, 1)]
    inside = (slice(None), slice(1, -1), slice(1, -1))
    assert np.array_equal(cut, whole) if exact else min(d[inside].max() for d in aside) <= 12
