"""Small real record files, and the entry scripts run as a user runs them."""

import os
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import common  # noqa: F401  readies the process for MXNet
from common import records

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run_script(*command, cwd=ROOT, timeout=300, **environment):
    """Run ``python COMMAND`` and return its exit code and output, within ``timeout`` s."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def assert_refused(result, *words):
    """A user's mistake: exit code 2, one line on stderr that holds ``words``."""
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


def write_records(prefix, images, labels, classes=None):
    """Pack arrays as PNG records; returns the .rec's path."""
    with records.create(str(prefix), classes) as writer:
        for image, label in zip(images, labels):
            writer.write(label, cv2.imencode(".png", image)[1].tobytes())
    return f"{prefix}.rec"


def bands(count, seed, size=32, channels=1):
    """``count`` noisy pictures of three classes: a bright band at the top, middle or bottom."""
    rng = np.random.RandomState(seed)
    rows = np.arange(size)[:, None, None]
    labels = np.arange(count) % 3
    images = []
    for label in labels:
        centre = (label + 0.5) * size / 3 + rng.uniform(-2, 2)
        band = 150 * np.exp(-(((rows - centre) * 8 / size) ** 2))
        noisy = 40 + band + rng.normal(0, 20, (size, size, channels))
        images.append(noisy.clip(0, 255).astype(np.uint8))
    return images, labels


@pytest.fixture(scope="session")
def grey(tmp_path_factory):
    """Record files of 32x32 grey pictures in three classes: ``train`` (600) and ``val`` (101)."""
    folder = tmp_path_factory.mktemp("grey")
    names = ["top", "middle", "bottom"]
    return SimpleNamespace(
        train=write_records(folder / "train", *bands(600, seed=1), names),
        val=write_records(folder / "val", *bands(101, seed=2), names),
        classes=names,
    )
