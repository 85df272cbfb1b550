"""NVIDIA DALI as the reader: the same images as ImageRecordIter's, by other code."""

import itertools

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import assert_same_arrays, run_script, write_records
from test_pipeline import arguments, training_data

from common.cli import UserError
from common.input import pipeline
from common.input.flags import check_data_args
from common.records.scan import scan_records
from common.records.writer import create_records

pytest.importorskip("nvidia.dali", reason="pip install '.[dali]' brings it")

SIDE = 20


def batches(path, *flags, backend="dali", first=0, **options):
    flags = [f"--data-backend={backend}", *flags]
    check_data_args(arguments(*flags, path=path))
    data = training_data(*flags, path=path, **options)
    return pipeline.take(pipeline.training_iterator(data, mx.cpu(), first), path, None)


def all_of(path, *flags, count=1, **options):
    """The images and labels of ``count`` batches, over the ends of epochs."""
    images, labels = [], []
    for batch in itertools.islice(batches(path, *flags, **options), count):
        images.append(batch.data[0].asnumpy())
        labels.append(batch.label[0].asnumpy())
    return np.concatenate(images), np.concatenate(labels)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """103 plain pictures; picture i has the label i and the grey value 2 i."""
    images = [np.full((24, 24, 3), 2 * i, np.uint8) for i in range(103)]
    return write_records(tmp_path_factory.mktemp("numbered") / "n", images, range(103))


def smooth(seed, height, width):
    """A colour picture without fine detail, in which neighbouring pixels differ by a few levels."""
    small = np.random.RandomState(seed).randint(0, 255, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("batch_size", [16, 60, 102, 103])
def test_an_epoch_has_each_image_once_with_its_label(numbered, batch_size):
    images, labels = all_of(numbered, batch_size=batch_size, count=-(-309 // batch_size))
    assert np.array_equal(images.mean(axis=(1, 2, 3)), 2 * labels)
    epochs = [labels[start : start + 103].tolist() for start in (0, 103, 206)]
    assert all(sorted(epoch) == list(range(103)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("first", [1, 4, 11])
def test_it_goes_on_where_it_stopped_to_the_last_bit(gradient, first):
    flags = ["--random-crop=1", "--random-mirror=1", "--pca-noise=0.1", "--data-nthreads=2"]
    whole, _ = all_of(gradient, *flags, batch_size=12, count=first + 3)
    rest, _ = all_of(gradient, *flags, batch_size=12, count=3, first=first)
    assert np.array_equal(whole[12 * first :], rest)


def test_several_files_are_one_set(tmp_path):
    paths = []
    for name, labels in (("a", range(5)), ("b", range(5, 13))):
        images = [np.full((24, 24, 3), 10 * label, np.uint8) for label in labels]
        paths.append(write_records(tmp_path / name, images, labels))
    images, labels = all_of(";".join(paths), batch_size=13)
    assert sorted(labels) == list(range(13)) != labels.tolist()
    assert np.array_equal(images.mean(axis=(1, 2, 3)), 10 * labels)


def test_the_order_is_of_the_whole_file_and_the_seeds(numbered):
    first, again = (all_of(numbered, batch_size=103, seed=5)[1] for _ in range(2))
    other = all_of(numbered, batch_size=103, seed=6)[1]
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    # A window smaller than the file would bring its end late: the first tenth would be low numbers.
    starts = np.concatenate([all_of(numbered, batch_size=103, seed=s)[1][:10] for s in range(20)])
    assert abs(starts.mean() - 51) < 8  # the mean of 200 draws: deviation 2.1


def test_a_held_batch_keeps_its_values(numbered):
    held = [batch.data[0] for batch in itertools.islice(batches(numbered, batch_size=10), 11)]
    values = [array.asnumpy().mean(axis=(1, 2, 3)) for array in held]
    assert len(set(np.concatenate(values)[:103])) == 103


@pytest.mark.parametrize("size", [(37, 53), (64, 40), (24, 31), (20, 33)])
@pytest.mark.parametrize("resize", [None, 22, 20, 30])
@pytest.mark.parametrize("channels", [3, 1])
def test_centre_crops_are_imagerecorditers(tmp_path, size, resize, channels):
    image = smooth(1, *size)
    if channels == 1:
        image = image[:, :, :1]
    path = write_records(tmp_path / "one", [image], [0])
    flags = ["--num-classes=2", *(["--resize", str(resize)] if resize else [])]
    shape = dict(shape=(channels, SIDE, SIDE), batch_size=1)
    norm = ["--rgb-mean=10,20,30", "--rgb-std=2,3,4"] if channels == 3 else []
    theirs, ours = (
        all_of(path, *flags, *norm, backend=backend, **shape)[0] for backend in ("mxnet", "dali")
    )
    difference = np.abs(theirs - ours)
    # As good as equal without resizing; with it, both round to whole grey levels before / std.
    assert difference.max() <= (1e-4 if resize is None else 1.01), difference.max()


@pytest.fixture(scope="module")
def gradient(tmp_path_factory):
    """3,840 times a picture whose red says the column and whose green the row."""
    rows, columns = np.mgrid[:30, :36].astype(np.uint8)
    image = np.dstack([np.full_like(rows, 100), 4 * rows, 4 * columns])
    return write_records(tmp_path_factory.mktemp("gradient") / "g", [image] * 3840, [0, 1] * 1920)


def places(images):
    """Top, left and mirror of each crop of ``gradient``."""
    top = images[:, 1].min(axis=(1, 2)) / 4
    left = images[:, 0].min(axis=(1, 2)) / 4
    return top, left, images[:, 0, 0, 0] > images[:, 0, 0, -1]


@pytest.mark.parametrize("backend", ["mxnet", "dali"])
def test_crops_and_mirrors_are_uniform(gradient, backend):
    flags = ["--random-crop=1", "--random-mirror=1"]
    images, _ = all_of(gradient, *flags, backend=backend, batch_size=64, count=60)
    top, left, mirrored = places(images)
    for values, spare in ((top, 10), (left, 16)):
        counts = np.bincount(values.astype(int), minlength=spare + 1)
        assert len(counts) == spare + 1
        expected = len(values) / (spare + 1)
        assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all(), counts
    assert abs(mirrored.mean() - 0.5) < 0.04  # 3,840 draws: deviation 0.008
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.08  # independent: deviation 0.016


@pytest.mark.parametrize("backend", ["mxnet", "dali"])
def test_lighting_has_imagerecorditers_statistics(gradient, backend):
    """Against ImageRecordIter's own pca_noise, which truncates to whole grey levels."""
    preparation = training_data(path=gradient).preparation
    options = dict(batch_size=64, pca_noise=0.3)
    reference = pipeline._record_iterator(scan_records(gradient), preparation, 1, **options)
    theirs = [batch.data[0].asnumpy() for batch in itertools.islice(reference, 40)]
    plain, _ = all_of(gradient, backend=backend, batch_size=64)
    lit, _ = all_of(gradient, "--pca-noise=0.3", backend=backend, batch_size=64, count=40)
    shifts, expected = (
        images - np.tile(plain, (40, 1, 1, 1)) for images in (lit, np.concatenate(theirs))
    )
    assert shifts.std(axis=(2, 3)).max() < 1e-3  # one colour all over an image
    shifts, expected = shifts.mean(axis=(2, 3)), np.median(expected, axis=(2, 3))
    assert np.abs(shifts.mean(axis=0)).max() < 5 * 9.9 / np.sqrt(len(shifts))
    # Of 2,560 draws a deviation has an error of 1.4%; truncation takes half a level off it.
    assert np.allclose(shifts.std(axis=0), expected.std(axis=0) + 0.5, rtol=0.07)
    assert np.abs(np.corrcoef(shifts.T) - np.corrcoef(expected.T)).max() < 0.02
    for found in (shifts, expected):  # the channels' order: of R and B, B varies more, by 2.8%
        assert 1.015 < found.std(axis=0)[2] / found.std(axis=0)[0] < 1.04


def test_mean_and_deviation_agree(gradient):
    flags = ["--random-crop=1", "--random-mirror=1", "--pca-noise=0.1"]
    means, deviations = [], []
    for backend in ("mxnet", "dali"):
        images, _ = all_of(gradient, *flags, backend=backend, batch_size=64, count=30)
        means.append(images.mean(axis=(0, 2, 3)))
        deviations.append(images.std(axis=(0, 2, 3)))
    assert np.allclose(*means, atol=1.5) and np.allclose(*deviations, rtol=0.03)


@pytest.mark.parametrize("flag", ["--random-resized-crop=1", "--brightness=0.4", "--pad-size=4"])
def test_flags_dali_does_not_do_are_refused_by_name(numbered, flag):
    more = ["--min-random-area=0.5"] if "resized" in flag else []
    with pytest.raises(UserError, match="--data-backend dali"):
        batches(numbered, flag, *more)


def test_an_undecodable_image_is_an_error_that_names_the_file(tmp_path):
    with create_records(str(tmp_path / "bad")) as writer:
        for i in range(8):
            writer.write(i % 2, b"\xff\xd8\xff\xe0 and no picture")
    with pytest.raises(UserError, match="bad.rec: DALI cannot prepare"):
        next(batches(str(tmp_path / "bad.rec")))


def test_pictures_smaller_than_the_crop_are_refused_with_a_remedy(tmp_path):
    path = write_records(tmp_path / "small", [smooth(1, 15, 30)] * 4, [0, 1] * 2)
    with pytest.raises(UserError, match="small.rec: .* is 30x15, smaller than the crop.* --resize"):
        next(batches(path))


def test_a_missing_dali_is_one_line_that_says_how_to_get_it(numbered, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install '\.\[dali\]'"):
        batches(numbered)


def test_a_network_learns_from_it(grey, tmp_path):
    flags = ["--network", "lenet", "--dataset", "mnist", "--data-backend", "dali"]
    flags += ["--data-train", grey.train, "--data-val", grey.val, "--batch-size", 16]
    result = run_script("train_imagenet.py", *flags, "--num-epochs", 2)
    assert result.returncode == 0, result.stderr
    assert "+data-backend dali" in " ".join(result.stdout.split())
    last = result.stdout.strip().splitlines()[-1]
    assert float(last.split("val")[1].split("top-1 ")[1].split("%")[0]) > 80


def test_with_uint8_batches_the_weights_are_the_same(grey, tmp_path):
    flags = ["--network", "lenet", "--dataset", "mnist", "--data-backend", "dali"]
    flags += ["--data-train", grey.train, "--batch-size", 16, "--num-epochs", 1, "--deterministic"]
    for dtype in ("float32", "uint8"):
        output = ["--data-dtype", dtype, "--model-prefix", tmp_path / dtype]
        assert run_script("train_imagenet.py", *flags, *output).returncode == 0
    assert_same_arrays(*(f"{tmp_path}/{dtype}-0001.params" for dtype in ("float32", "uint8")))
