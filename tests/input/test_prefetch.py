"""How training batches are prepared: crops, and the thread at it as its process ends."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, write_records

from common.input import prefetch
from common.input.augmentation import _EIGENVECTORS, Augmentation
from common.runtime import native


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("channels", [3, 1, 4])
def test_crops_are_numpys_slices(compiled, channels, monkeypatch):
    if not compiled:
        monkeypatch.setattr(native, "load", lambda: False)
    rng = np.random.RandomState(0)
    shapes = rng.randint(19, 99, (13, 2))
    images = [rng.randint(0, 256, (*shape, channels), np.uint8) for shape in shapes]
    images.append(images[0][:, 5:])  # rows with gaps between them
    corners = np.array([rng.randint(np.array(i.shape[:2]) - (7, 9) + 1) for i in images])
    mirrored = rng.randint(2, size=len(images)).astype(bool)
    found = prefetch.crop(images, corners, mirrored, (7, 9))
    assert found.shape == (14, channels, 7, 9)
    for image, (top, left), mirror, cut in zip(images, corners, mirrored, found):
        expected = image[top : top + 7, left : left + 9]
        expected = expected[:, ::-1] if mirror else expected
        assert np.array_equal(cut, expected.transpose(2, 0, 1))


def test_crops_and_mirrors_are_the_seeds_and_in_the_middle_unless_asked_for():
    augmentation = Augmentation(3, pca_noise=0, options={"rand_crop": 1, "rand_mirror": 1})
    spare = np.tile([[4, 0], [9, 7]], (500, 1))
    corners, mirrored = augmentation.crops(0, 0, spare)
    again, _ = augmentation.crops(0, 0, spare)
    seeded = dataclasses.replace(augmentation, seed=4)
    others = [augmentation.crops(0, 1, spare), augmentation.crops(1, 0, spare)]
    others.append(seeded.crops(0, 0, spare))
    assert np.array_equal(corners, again)
    assert not any(np.array_equal(corners, other) for other, _ in others)
    assert [len(set(corners[0::2, 0])), len(set(corners[1::2, 1]))] == [5, 8]
    assert (corners[0::2, 1] == 0).all() and 400 < mirrored.sum() < 600
    augmentation = Augmentation(3, pca_noise=0, options={"rand_crop": 0, "rand_mirror": 0})
    corners, mirrored = augmentation.crops(0, 0, spare)
    assert (corners == np.tile([[2, 0], [4, 3]], (500, 1))).all() and not mirrored.any()


def test_crops_do_not_depend_on_the_lighting():
    augmentation = Augmentation(3, pca_noise=1, options={"rand_crop": 1, "rand_mirror": 1})
    spare = np.full((1, 2), 2**32 - 1)  # corners that show all bits of what is drawn
    crops = [augmentation.crops(0, batch, spare)[0][0] for batch in range(300)]
    lighting = [augmentation.lighting((1, 3), 0, batch)[0] for batch in range(300)]
    weights = lighting @ _EIGENVECTORS  # of the components, but for a factor
    assert np.abs(np.corrcoef(np.hstack([crops, weights]).T)[:2, 2:]).max() < 0.25


@pytest.mark.parametrize("ending", ["pass", "raise ValueError", "sys.exit(0)"])
def test_a_reader_at_work_does_not_keep_the_program_from_ending(tmp_path, ending):
    code = "it = pipeline.training_iterator(data, mx.cpu()); next(it); " + ending
    process, _ = started(tmp_path, code)
    assert process.wait(30) == (ending == "raise ValueError"), process.stderr.read()


def test_ctrl_c_ends_training_at_once(tmp_path):
    code = "it = pipeline.training_iterator(data, mx.cpu()); print(next(it).label, flush=True)\n"
    code += "for _ in it: pass"
    process, first = started(tmp_path, code)
    assert first  # it reads
    process.send_signal(signal.SIGINT)
    since = time.monotonic()
    assert process.wait(30) != 0
    assert time.monotonic() - since < 5
    assert "KeyboardInterrupt" in process.stderr.read()


def started(folder, code):
    """A process that runs ``code`` on real records, and the first line it prints."""
    images = [np.random.RandomState(i).randint(0, 255, (300, 300, 3), np.uint8) for i in range(64)]
    path = write_records(folder / "x", images, range(64))
    arguments = f"training_data(path={path!r}, shape=(3, 227, 227), batch_size=32)"
    code = f"import mxnet as mx, sys; from common.input import pipeline; data = {arguments}; {code}"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import common.runtime.mxnet; from test_pipeline import training_data; " + code,
        ],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests:{ROOT}/tests/input"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline()
