"""--draw balanced: an epoch has each class equally often, however few pictures it has."""

import os
import signal

import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, assert_same_arrays, before_batch, train, write_records

from common.input import copies, pipeline
from common.input.order import balanced as draw
from common.records.scan import scan_records
from common.records.writer import create_records

COUNTS = [30, 9, 3]
LABELS = np.repeat(np.arange(3), COUNTS)


@pytest.fixture
def path(tmp_path):
    """Picture n of 42 is grey of level 3n, so that it can be told from the others."""
    images = [np.full((32, 32, 1), 3 * number, np.uint8) for number in range(42)]
    return write_records(tmp_path / "x", images, LABELS)


@pytest.fixture
def flags(path):
    lenet = ["--network", "lenet", "--dataset", "mnist", "--deterministic", "--batch-size", 6]
    return [*lenet, "--data-train", path, "--draw", "balanced", "--num-epochs", 2]


@pytest.mark.parametrize("count", [1, 2, 3, 40, 42, 100])
def test_classes_come_equally_often_and_their_pictures_in_turn(count):
    for seed in range(5):
        numbers = draw(LABELS, count, seed)
        assert len(numbers) == count
        of_class = np.bincount(LABELS[numbers], minlength=3)
        assert of_class.max() - of_class.min() <= 1
        for label in range(3):
            often = np.bincount(numbers, minlength=42)[label == LABELS]
            assert often.max() - often.min() <= 1
    assert count < 3 or not np.array_equal(draw(LABELS, count, 0), draw(LABELS, count, 1))
    assert np.array_equal(draw(LABELS, count, 3), draw(LABELS, count, 3))


@pytest.mark.parametrize("most", [64 << 20, 2000])
def test_what_is_drawn_is_what_is_read(path, monkeypatch, most):
    monkeypatch.setattr(copies, "_BYTES", most)
    records = scan_records(path)
    expected, seen, parts = draw(records.labels, 42, 7), [], 0
    for (file, index), count in copies.files(records, expected, batch_size=6):
        reader, parts = mx.recordio.MXIndexedRecordIO(index, file, "r"), parts + 1
        for key in range(count):
            header, image = mx.recordio.unpack_img(reader.read_idx(key), 0)
            seen.append((header.label, image[0, 0] // 3))
        assert count >= 6
        reader.close()
    assert (parts > 1) == (most == 2000)
    assert [number for _, number in seen] == expected.tolist()
    assert [label for label, _ in seen] == LABELS[expected].tolist()


@pytest.mark.parametrize("most", [64 << 20, 2000])
def test_batches_have_each_class_equally_often_with_its_own_pictures(
    flags, monkeypatch, most, tmp_path
):
    monkeypatch.setattr(copies, "_BYTES", most)
    batches, epochs = [], []
    take = pipeline.take

    def taking(*given):
        for batch in take(*given):
            batches.append((batch.label[0].asnumpy(), batch.data[0].asnumpy()[:, 0, 0, 0]))
            yield batch

    monkeypatch.setattr(pipeline, "take", taking)
    descriptors = len(os.listdir("/proc/self/fd"))
    result = train(*flags, "--model-prefix", tmp_path / "x")
    assert result.returncode == 0, result.stderr
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 6  # those of a reader at work
    for epoch in (batches[-14:-7], batches[-7:]):
        labels, levels = (np.concatenate(part) for part in zip(*epoch))
        assert np.bincount(labels.astype(int)).tolist() == [14, 14, 14]
        numbers = np.rint((levels * 200 + 20) / 3).astype(int)
        assert np.array_equal(LABELS[numbers], labels)
        epochs.append(numbers.tolist())
    assert epochs[0] != epochs[1]


def test_resume_is_exact(flags, tmp_path):
    assert train(*flags, "--model-prefix", tmp_path / "whole").returncode == 0
    with before_batch(10, lambda: signal.raise_signal(signal.SIGTERM)):
        assert train(*flags, "--model-prefix", tmp_path / "y").returncode == 143
    again = [*flags, "--model-prefix", tmp_path / "y", "--resume"]
    assert_refused(train(*again, "--draw", "all"), "--draw all", "trained with balanced")
    assert train(*again).returncode == 0
    assert_same_arrays(tmp_path / "y-0002.params", tmp_path / "whole-0002.params")


def test_what_it_cannot_go_with_is_refused(flags):
    assert_refused(train(*flags, "--class-weights", "balanced"), "choose one")
    own = ["--network", "lenet", "--dataset", "mnist", "--benchmark", 1, "--draw", "balanced"]
    assert_refused(train(*own, "--data-train", "x.rec"), "--draw balanced: needs record files")


def test_an_undecodable_picture_is_an_error_that_names_the_users_file(flags, tmp_path):
    with create_records(str(tmp_path / "bad")) as writer:
        for label in (0, 0, 0, 1, 1, 1):
            writer.write(label, b"\xff\xd8\xff\xe0 and no picture")
    result = train(*flags, "--data-train", tmp_path / "bad.rec")
    assert_refused(result, f"{tmp_path / 'bad.rec'}: MXNet cannot prepare one of its images")
