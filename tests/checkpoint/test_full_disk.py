"""A full disk, a folder that cannot be written to, files that vanish: a line, and nothing lost."""

import os
import resource
import shutil
import signal
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT, assert_refused, assert_same_arrays, before_batch, train

from common.checkpoint import store
from common.cli import UserError
from common.io.log import RunLog

EPOCH = 7  # batches


@pytest.fixture(scope="module")
def flags(small):
    recipe = ["--network", "lenet", "--dataset", "mnist", "--deterministic", "--batch-size", 16]
    return [*recipe, "--num-epochs", 3, "--data-train", small.train]


@pytest.fixture
def limit():
    """limit(size): no file may grow beyond that, as on a full disk; until limit()."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def change(size=before[0]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield change
    change()


def stop():
    signal.raise_signal(signal.SIGTERM)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def equal(found, expected):
    return found.keys() == expected.keys() and all(
        np.array_equal(found[name].asnumpy(), expected[name].asnumpy()) for name in expected
    )


def stack(layers):
    net = mx.sym.Variable("data")
    for i in range(layers):
        net = mx.sym.FullyConnected(net, name=f"fc{i}", num_hidden=2, no_bias=True)
    return mx.sym.SoftmaxOutput(net, name="softmax")


@pytest.mark.parametrize("shape, layers", [((2, 2), 20), ((2, 300), 1)], ids=["graph", "weights"])
def test_wherever_the_disk_is_full_a_checkpoint_is_whole_or_not_there(
    tmp_path, limit, shape, layers
):
    """The largest file is the graph in one case, the weights in the other."""
    prefix, symbol = str(tmp_path / "x"), stack(layers)
    rng = np.random.RandomState(0)
    arrays = {name: mx.nd.array(rng.normal(size=shape)) for name in symbol.list_arguments()[1:-1]}
    optimizer = {f"{name}:0": array for name, array in arrays.items()}
    store.save(prefix, 1, symbol, arrays, {}, optimizer, batches=1)
    whole = contents(tmp_path)
    sizes = [len(content) for content in whole.values()]
    tried = {size + near for size in sizes for near in (-4097, -4096, -9, -1, 0)}
    tried |= set(range(0, max(sizes), 97))
    outcomes = set()
    for size in sorted(size for size in tried if size >= 0):
        limit(size)
        try:
            store.save(prefix, 2, symbol, arrays, {}, optimizer, batches=2)
            outcomes.add("saved")
        except UserError as error:
            outcomes.add("refused")
            assert prefix in str(error) and "\n" not in str(error)
        limit()
        if store.numbers(prefix) == [1, 2]:
            store.verify(prefix, 2)
            assert equal(store.load(prefix, 2)[1], arrays), size
            assert equal(store.load_optimizer(prefix, 2), optimizer), size
            store.remove(prefix, keep=(1,))
        assert contents(tmp_path) == whole, size
    assert outcomes == {"saved", "refused"}


def test_training_goes_on_and_the_earlier_checkpoint_stays(flags, tmp_path):
    whole, prefix = tmp_path / "whole", tmp_path / "x"
    assert train(*flags, "--model-prefix", whole).returncode == 0
    flags = [*flags, "--model-prefix", prefix]
    with before_batch(EPOCH, stop):
        assert train(*flags).returncode == 143  # an epoch is saved by then

    result = run_limited(100_000, "train_imagenet.py", *flags, "--resume")
    assert result.returncode == 2
    warning, error = result.stderr.splitlines()
    assert warning.startswith("warning: ") and f"{prefix}-0002" in warning
    assert "training continues" in warning
    assert error.startswith("train_imagenet.py: error: ") and f"{prefix}-0003" in error
    assert "epoch 2/3  train loss" in result.stdout and "epoch 3/3" not in result.stdout
    assert store.newest(str(prefix)) == ((str(prefix), 1), [])
    assert not any(".tmp" in name for name in os.listdir(tmp_path))

    assert train(*flags, "--resume").returncode == 0
    for name in ("-0003.params", "-0003-optimizer.params"):
        assert_same_arrays(f"{prefix}{name}", f"{whole}{name}")


def run_limited(size, *command):
    """Run ``python COMMAND`` where no file may grow beyond ``size`` bytes."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("size", [0, 1000])
def test_a_disk_that_is_full_from_the_start_is_a_line(flags, tmp_path, limit, size):
    limit(size)
    result = train(*flags, "--model-prefix", tmp_path / "x")
    limit()
    assert_refused(result, str(tmp_path / "x"))


def test_stopped_on_a_full_disk_it_says_that_nothing_was_saved(flags, tmp_path, limit):
    flags = [*flags, "--model-prefix", tmp_path / "x"]
    with before_batch(EPOCH, stop):
        train(*flags)
    limit(100_000)
    with before_batch(9, stop):
        result = train(*flags, "--resume")
    assert_refused(result, f"{tmp_path / 'x'}-partial-0010", "cannot be written")
    assert store.newest(str(tmp_path / "x")) == ((str(tmp_path / "x"), 1), [])


def test_what_failed_is_tried_again_and_the_run_is_the_same(flags, tmp_path, limit):
    whole, prefix = tmp_path / "whole", tmp_path / "x"
    assert train(*flags, "--model-prefix", whole).returncode == 0
    with before_batch(1, lambda: limit(100_000)), before_batch(10, limit):
        result = train(*flags, "--model-prefix", prefix, "--save-minutes", 1e-9)
    assert result.returncode == 0
    assert all(line.startswith("warning: ") for line in result.stderr.splitlines())
    assert len(result.stderr.splitlines()) == 9
    assert store.numbers(str(prefix)) == [2, 3]
    for name in ("-0003.params", "-0003-optimizer.params"):
        assert_same_arrays(f"{prefix}{name}", f"{whole}{name}")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_log_that_cannot_be_written_is_one_warning(capsys, monkeypatch):
    unheard = []  # Python 3.13 speaks up when a file cannot be closed
    monkeypatch.setattr(sys, "unraisablehook", unheard.append)
    log = RunLog("/dev/full")
    log.event("epoch", loss=1.0)
    log.event("epoch", loss=0.5)
    assert unheard == []
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("warning: /dev/full: ")


@pytest.mark.parametrize("folder", ["{file}/x", "/proc/none/x", "/proc/x"])
def test_a_folder_that_cannot_be_written_to_is_a_line(flags, tmp_path, folder):
    """Even root cannot write to these."""
    (tmp_path / "file").write_text("no folder")
    prefix = folder.format(file=tmp_path / "file")
    assert_refused(train(*flags, "--model-prefix", prefix), os.path.dirname(prefix))


def test_a_folder_that_vanishes_is_named(flags, tmp_path):
    prefix = tmp_path / "folder" / "x"
    with before_batch(EPOCH + 3, lambda: shutil.rmtree(tmp_path / "folder")):
        result = train(*flags, "--model-prefix", prefix)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 2, result.stderr
    warning, error = result.stderr.splitlines()
    assert f"{prefix}-" in warning and "training continues" in warning
    assert f"{prefix}-" in error  # and not its lock


@pytest.fixture
def records(small, tmp_path):
    """The path of training records of one's own."""
    for name in ("train.rec", "train.idx"):
        shutil.copy(os.path.join(os.path.dirname(small.train), name), tmp_path / name)
    return tmp_path / "train.rec"


def test_records_that_are_gone_are_named_and_back_again_they_serve(flags, records, tmp_path):
    flags = [*flags, "--data-train", records, "--model-prefix", tmp_path / "x"]
    gone = tmp_path / "gone"
    records.rename(gone)
    assert_refused(train(*flags), str(records))
    assert not any(name.startswith("x") for name in os.listdir(tmp_path))
    gone.rename(records)
    with before_batch(3, stop):
        assert train(*flags).returncode == 143
    records.rename(gone)
    before = contents(tmp_path)
    assert_refused(train(*flags, "--resume"), str(records))
    assert contents(tmp_path) == before
    gone.rename(records)
    (tmp_path / "train.idx").unlink()  # it is made anew
    assert train(*flags, "--resume").returncode == 0


def test_records_that_vanish_while_training_are_named(flags, records, tmp_path):
    flags = [*flags, "--data-train", records, "--num-epochs", 9]
    with before_batch(2, records.unlink):
        result = train(*flags, "--model-prefix", tmp_path / "x")
    assert_refused(result, str(records))


def test_a_mistake_in_the_prefix_costs_no_training(flags, tmp_path):
    """It is found before the first batch."""
    (tmp_path / "x.lock").mkdir()
    with before_batch(0, lambda: pytest.fail("it trained")):
        assert_refused(train(*flags, "--model-prefix", tmp_path / "x"), f"{tmp_path / 'x'}.lock")
