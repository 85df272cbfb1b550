"""Small real record files, and the entry scripts run as a user runs them."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import pytest
from drivers import Driver

import common.runtime.mxnet  # noqa: F401  readies the process for MXNet, so it comes first

# isort: split
import mxnet as mx

import train_imagenet
from common import cli
from common.io.signals import Stop
from common.records.writer import create_records
from common.train import loop

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LENET = ["--network", "lenet", "--dataset", "mnist", "--deterministic", "--disp-batches", 1]
LENET += ["--batch-size", 16, "--num-epochs", 2]
# A shell's background jobs ignore Ctrl-C, and what nohup runs ignores a hang-up. Children of this
# process would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


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


def operators(symbol):
    """The operator of each node that is no variable, by name."""
    return {n["name"]: n["op"] for n in json.loads(symbol.tojson())["nodes"] if n["op"] != "null"}


def output_and_gradients(operator, arrays, gradient):
    """What ``operator`` makes of ``arrays``, and their gradients for the output's ``gradient``."""
    arrays = [mx.nd.array(values) for values in arrays]
    for array in arrays:
        array.attach_grad()
    with mx.autograd.record():
        output = operator(*arrays)
    output.backward(mx.nd.array(gradient))
    return [output.asnumpy(), *(array.grad.asnumpy() for array in arrays)]


def write_records(prefix, images, labels, classes=None):
    """Pack arrays as PNG records; returns the .rec's path."""
    with create_records(str(prefix), classes) as writer:
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


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """As ``grey``, for what trains often: ``train`` (100) and ``val`` (33)."""
    folder = tmp_path_factory.mktemp("small")
    return SimpleNamespace(
        train=write_records(folder / "train", *bands(100, seed=1)),
        val=write_records(folder / "val", *bands(33, seed=2)),
    )


@pytest.fixture(scope="session")
def flags(small):
    """Of two epochs of seven batches; the last one goes on with the next epoch's images."""
    return [*LENET, "--data-train", small.train, "--data-val", small.val]


@pytest.fixture(scope="session")
def finished(flags, tmp_path_factory):
    """The prefix of a run of two epochs that was never stopped; to be copied, not changed."""
    prefix = tmp_path_factory.mktemp("finished") / "x"
    assert train(*flags, "--model-prefix", prefix).returncode == 0
    return prefix


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished.parent, tmp_path / "copied")
    return tmp_path / "copied" / "x"


def run_here(main, *flags):
    """Call an entry script's ``main`` in this process: quicker than :func:`run_script`.

    A signal that ends a run, which would be the end of this process too, is only its exit code.
    """
    nothing, out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(3))

    def leave(stop):
        sys.exit(128 + stop.requested)

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(mock.patch.object(Stop, "leave", leave))
        stack.enter_context(mock.patch("sys.stdin", nothing))
        stack.enter_context(mock.patch("sys.argv", ["script.py", *map(str, flags)]))
        exit_code = stack.enter_context(pytest.raises(SystemExit))
        cli.run(main)
    for stream in (out, err):
        stream.flush()
    return SimpleNamespace(
        returncode=exit_code.value.code or 0,
        stdout=out.buffer.getvalue().decode(),
        stderr=err.buffer.getvalue().decode(),
    )


def train(*flags):
    """``train_imagenet.py FLAGS`` in this process."""
    return run_here(train_imagenet.main, *flags)


def terminate():
    signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def before_batch(number, action):
    """Have training call ``action`` before each run's batch ``number``, counted from 0."""
    step = loop.Run._step

    def wrapped(run, batch, title):
        if run.state.batches == number:
            action()
        step(run, batch, title)

    with mock.patch.object(loop.Run, "_step", wrapped):
        yield


def logged(prefix):
    """What the log has of batches and epochs, but for times and speeds."""
    with open(f"{prefix}-log.jsonl") as file:
        lines = [json.loads(line) for line in file]
    for line in lines:
        line.pop("time"), line.pop("img_per_s", None)
    return [line for line in lines if line["event"] in ("batch", "epoch")]


def assert_same_arrays(path, other):
    """Two files that mx.nd.save wrote hold the same arrays, bit for bit."""
    arrays, others = mx.nd.load(str(path)), mx.nd.load(str(other))
    assert arrays.keys() == others.keys()
    for name in arrays:
        assert np.array_equal(arrays[name].asnumpy(), others[name].asnumpy()), name


def assert_same_run(prefix, other, epochs=2):
    assert logged(prefix) == logged(other)
    for kind in ("", "-optimizer"):
        name = f"-{epochs:04d}{kind}.params"
        assert_same_arrays(f"{prefix}{name}", f"{other}{name}")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def machine(monkeypatch):
    """Call it to have a CUDA build and this driver: ``machine(["Tesla T4"], free=...)``."""

    def install(*args, features=("CUDA", "NCCL"), **options):
        driver = Driver(*args, **options)

        class Features:
            def is_enabled(self, name):
                return name in features

        monkeypatch.setattr(mx.runtime, "Features", Features)
        monkeypatch.setattr(mx.context, "num_gpus", driver.nvmlDeviceGetCount)
        monkeypatch.setitem(sys.modules, "pynvml", driver)
        return driver

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return install


@pytest.fixture(scope="module")
def importing():
    """tests/imports.py, which imports this file, and much that few tests need."""
    import imports

    return imports


@pytest.fixture(scope="module")
def caffe(importing, tmp_path_factory):
    """A Caffe model's files."""
    return importing.caffe_model(tmp_path_factory.mktemp("caffe"))


@pytest.fixture(scope="module")
def imported(importing, caffe, tmp_path_factory):
    """The prefix of what import_weights.py made of the Caffe model, and what it said."""
    prefix = str(tmp_path_factory.mktemp("imported") / "bvlc")
    return prefix, importing.import_model(caffe, prefix)


@pytest.fixture(scope="module")
def caffenet(importing, tmp_path_factory):
    """A CaffeNet with the same weights, and the prefix of what the script made of it."""
    model = importing.caffe_model(tmp_path_factory.mktemp("caffenet"), caffenet=True)
    prefix = str(model.model.parent / "caffenet")
    importing.import_model(model, prefix)
    return model, prefix
