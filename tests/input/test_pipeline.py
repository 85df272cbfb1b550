"""Batches for training and for evaluation."""

import itertools
import shutil
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest
from conftest import write_records

from common import cli
from common.cli import UserError
from common.input import flags as data_flags
from common.input import pipeline, prefetch
from common.input.preparation import Preparation, sample_images
from common.input.training_data import TrainingData
from common.io import cpus
from common.records.scan import scan_records
from common.records.writer import create_records


def arguments(*flags, path="x.rec", shape=(3, 20, 20), batch_size=4, seed=0):
    parser = cli.ArgumentParser()
    data_flags.add_data_args(parser)
    parser.set_defaults(
        data_train=path,
        image_shape=shape,
        rgb_mean=[0.0] * shape[0],
        rgb_std=[1.0] * shape[0],
        batch_size=batch_size,
        accumulate=1,
        seed=seed,
        data_nthreads=1,
    )
    return parser.parse_args(flags)


def training_data(*flags, images=None, **options):
    """What train_imagenet.py makes of these flags and of the record file ``path``."""
    args = arguments(*flags, **options)
    args.num_examples = images
    return TrainingData.from_args(args, scan_records(args.data_train))


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """13 plain colour pictures; picture i has the label i and the grey value 10 i."""
    images = [np.full((24, 24, 3), 10 * i, np.uint8) for i in range(13)]
    return write_records(tmp_path_factory.mktemp("numbered") / "n", images, range(13))


@pytest.mark.parametrize("batch_size", [1, 3, 12, 13, 14, 64])
def test_evaluation_counts_each_image_exactly_once(numbered, batch_size):
    found = scan_records(numbered)
    preparation = training_data(path=numbered).preparation
    for _ in range(3):  # MXNet's own counts go wrong from the second pass on
        seen = []
        batches = pipeline.evaluation_batches(found, preparation, min(batch_size, 13), threads=1)
        for batch, count in batches:
            means = batch.data[0].asnumpy()[:count].mean(axis=(1, 2, 3)) / 10
            assert np.array_equal(means, batch.label[0].asnumpy()[:count])
            seen.extend(means)
        assert seen == list(range(13))


def test_a_reader_of_one_thread_leaves_the_network_its_threads(numbered):
    openmp = mx.base._LIB
    openmp.omp_set_num_threads(3)
    preparation = training_data(path=numbered).preparation
    next(pipeline.evaluation_batches(scan_records(numbered), preparation, 4, threads=1))
    threads = openmp.omp_get_max_threads()
    openmp.omp_set_num_threads(cpus.openmp_threads())
    assert threads == 3


def labels_of(data, count, first=0):
    """The labels of ``count`` training batches, each checked against its picture."""
    batches = pipeline.training_iterator(data, mx.cpu(), first)
    labels = []
    for batch in itertools.islice(batches, count):
        labels.extend(batch.label[0].asnumpy().astype(int))
        assert np.array_equal(batch.data[0].asnumpy()[:, 0, 0, 0], 10 * batch.label[0].asnumpy())
    return labels


@pytest.mark.parametrize("batch_size", [1, 2, 4, 12, 13])
def test_training_sees_every_image_exactly_once_an_epoch_in_new_orders(numbered, batch_size):
    data = training_data(path=numbered, batch_size=batch_size)
    labels = labels_of(data, -(-4 * 13 // batch_size))
    epochs = [labels[start : start + 13] for start in range(0, 4 * 13, 13)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    assert labels_of(data, 4) == labels[: 4 * batch_size]


@pytest.mark.parametrize("first", [1, 3, 4, 9, 13, 30])
def test_training_goes_on_where_it_stopped(numbered, first):
    data = training_data(path=numbered, batch_size=4)
    assert labels_of(data, 5, first=first) == labels_of(data, first + 5)[4 * first :]


def test_an_epoch_of_fewer_images_than_the_file_has(numbered):
    labels = labels_of(training_data(path=numbered, batch_size=5, images=10), 14)
    epochs = [labels[start : start + 10] for start in range(0, 70, 10)]
    assert all(len(set(epoch)) == 10 for epoch in epochs)
    assert set(labels) == set(range(13))


def test_another_seed_is_another_order_in_every_epoch(numbered):
    orders = [labels_of(training_data(path=numbered, batch_size=13, seed=s), 3) for s in (0, 1)]
    assert not any(orders[0][e : e + 13] == orders[1][f : f + 13] for e in (0, 13) for f in (0, 13))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_held_batch_keeps_its_values_and_free_memory_is_used_again(numbered, monkeypatch, dtype):
    buffers = []
    make = prefetch.Buffers
    monkeypatch.setattr(prefetch, "Buffers", lambda *a: buffers.append(make(*a)) or buffers[0])
    data = training_data(f"--data-dtype={dtype}", path=numbered)
    batches = pipeline.training_iterator(data, mx.cpu())
    held = [(batch.data[0], batch.label[0]) for batch in itertools.islice(batches, 8)]
    for images, labels in held:
        assert images.dtype == np.dtype(dtype).type
        assert np.array_equal(images.asnumpy().mean(axis=(1, 2, 3)), 10 * labels.asnumpy())
    assert len(buffers[0]._arrays) >= 8
    del held, images, labels
    for _ in range(30):
        next(batches)
    assert len(buffers[0]._arrays) <= 8 + 4  # what is held, ready, and being made


def test_grey_images_are_normalised(tmp_path):
    images = [np.full((24, 24, 1), value, np.uint8) for value in (50, 60, 70, 80)]
    path = write_records(tmp_path / "grey", images, range(4))
    data = training_data("--rgb-mean=30", "--rgb-std=10", path=path, shape=(1, 20, 20))
    batch = next(pipeline.training_iterator(data, mx.cpu()))
    assert batch.data[0].shape == (4, 1, 20, 20)
    means = batch.data[0].asnumpy().mean(axis=(1, 2, 3))
    assert np.allclose(means, 2 + batch.label[0].asnumpy())


def test_mxnet_knows_each_option_that_is_given_to_it(numbered, monkeypatch):
    """It ignores others without a word."""
    given, make = {}, mx.io.ImageRecordIter
    monkeypatch.setattr(mx.io, "ImageRecordIter", lambda **own: given.update(own) or make(**own))
    next(pipeline.training_iterator(training_data("--resize", "24", path=numbered), mx.cpu()))
    assert {"rand_mirror", "mean_r", "resize", "round_batch"} <= given.keys()
    assert [name for name in given if f"\n{name} : " not in make.__doc__] == []


@pytest.mark.parametrize("labels", [[0, 1, -1], [0, 1, 1.5], [0, 1, float("nan")]])
def test_a_label_that_is_no_class_number_is_refused(tmp_path, labels):
    path = write_records(tmp_path / "x", [np.zeros((8, 8, 3), np.uint8)] * 3, labels)
    with pytest.raises(UserError, match="record 2 has the label"):
        pipeline.checked_records(path)


def test_a_label_beyond_the_classes_is_refused(numbered):
    with pytest.raises(UserError, match="record 12 has the label 12"):
        pipeline.checked_records(numbered, num_classes=12)


def test_the_number_of_classes_is_that_of_the_labels_or_a_larger_one_that_is_asked_for(numbered):
    for flags, classes in ([], 13), (["--num-classes=13"], 13), (["--num-classes=1000"], 1000):
        assert training_data(*flags, path=numbered).num_classes == classes
    with pytest.raises(UserError, match="--num-classes 12: .* up to 12; give at least 13"):
        training_data("--num-classes=12", path=numbered)


@pytest.mark.parametrize(
    "labels, words",
    [
        ([0] * 4, "all images have the label 0; a network needs two classes"),
        ([1, 2, 3, 1], "labels go from 1 to 3, but no image has the label 0; .*--num-classes 4"),
        ([0, 200000, 0, 0], "no image has the label 1; .*--num-classes 200001"),
        ([0, 1, 3, 0], "no image has the label 2"),
    ],
)
def test_labels_that_are_not_numbered_from_0_are_told(tmp_path, labels, words):
    path = write_records(tmp_path / "x", [np.zeros((8, 8, 3), np.uint8)] * 4, labels)
    with pytest.raises(UserError, match=words):
        training_data(path=path)
    if len(set(labels)) > 1:
        flag = f"--num-classes={max(labels) + 1}"
        assert training_data(flag, path=path).num_classes == max(labels) + 1


def test_named_classes_may_lack_images_but_not_names(tmp_path):
    names = ["a", "b", "c"]
    path = write_records(tmp_path / "x", [np.zeros((8, 8, 3), np.uint8)] * 4, [0, 2, 0, 2], names)
    assert training_data(path=path).num_classes == 3
    with pytest.raises(UserError, match="--num-classes 4: .* has 3 class names; write more"):
        training_data("--num-classes=4", path=path)


@pytest.mark.parametrize("names", [None, ["a", "b"]])
def test_the_remedy_for_more_classes_in_validation_is_one_that_helps(tmp_path, names):
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 4
    training = write_records(tmp_path / "train", pictures, [0, 1, 0, 1], names)
    validation = write_records(tmp_path / "val", pictures, [0, 1, 2, 0])

    def check(*flags):
        data = training_data(*flags, path=training)
        classes = data.records.classes
        return pipeline.checked_records(validation, data.num_classes, classes=classes)

    helps = "train with names for them" if names else "train with --num-classes 3"
    with pytest.raises(UserError, match=f"label 2, but there are 2 classes .*{helps}"):
        check()
    if names:
        (tmp_path / "train-classes.txt").write_text("a\nb\nc\n")
    assert len(check(*([] if names else ["--num-classes=3"]))) == 4


def test_a_network_of_one_class_is_refused(tmp_path):
    path = write_records(tmp_path / "x", [np.zeros((8, 8, 3), np.uint8)] * 4, [0] * 4)
    with pytest.raises(UserError, match="a network needs two classes"):
        training_data("--num-classes=1", path=path)
    assert training_data("--num-classes=2", path=path).num_classes == 2


def test_validation_records_of_other_classes_are_refused(tmp_path):
    path = write_records(tmp_path / "x", [np.zeros((8, 8, 3), np.uint8)] * 2, [0, 1], ["a", "b"])
    assert len(pipeline.checked_records(path, 2, classes=["a", "b"])) == 2
    with pytest.raises(UserError, match="x.rec: its -classes.txt has other names"):
        pipeline.checked_records(path, 2, classes=["b", "a"])


def test_a_batch_larger_than_the_data_is_refused(numbered):
    assert len(pipeline.checked_records(numbered, least=13)) == 13
    with pytest.raises(UserError, match="--batch-size 14"):
        pipeline.checked_records(numbered, least=14)


@pytest.mark.parametrize("flags", [[], ["--resize=24"]], ids=str)
def test_an_undecodable_image_is_an_error_that_names_the_file(tmp_path, flags):
    with create_records(str(tmp_path / "bad")) as writer:
        for i in range(8):
            writer.write(i % 2, b"\xff\xd8\xff\xe0 and no picture")
    data = training_data(*flags, path=str(tmp_path / "bad.rec"))
    with pytest.raises(UserError, match=r"bad.rec: MXNet cannot prepare .*python -m data.check"):
        list(pipeline.take(pipeline.training_iterator(data, mx.cpu()), data.name, 2))


def test_synthetic_batches_make_an_epoch_of_the_images_asked_for():
    data = TrainingData.from_args(arguments("--num-classes=10", shape=(3, 8, 8)))
    batches = pipeline.synthetic(data, mx.cpu())
    assert len(list(pipeline.take(batches, data.name, 3))) == 3
    batch = next(batches)
    assert batch.data[0].shape == (4, 3, 8, 8) and batch.label[0].asnumpy().max() < 10


@pytest.mark.parametrize("folder", ["x#y", "x;y", "x?y", "x?format=y#1;z"])
def test_a_folder_whose_name_mxnet_takes_for_an_address(small, tmp_path, folder):
    odd = tmp_path / folder
    odd.mkdir()
    (tmp_path / "x").write_text("another file, which MXNet would read in its place")
    for ending in (".rec", ".idx"):
        shutil.copy(small.val[: -len(".rec")] + ending, odd / f"val{ending}")
    preparation = Preparation((1, 32, 32), None, (0, 0, 0), (1, 1, 1))
    read = []
    for path in (small.val, str(odd / "val.rec")):
        found = pipeline.checked_records(path)
        batches = pipeline.evaluation_batches(found, preparation, 16, 1)
        read.append([batch.data[0].asnumpy()[:count] for batch, count in batches])
    assert np.array_equal(np.concatenate(read[0]), np.concatenate(read[1]))


@pytest.fixture
def parts(numbered, tmp_path):
    """The pictures of ``numbered`` in three files, the second in a folder with an odd name."""
    images = [np.full((24, 24, 3), 10 * i, np.uint8) for i in range(13)]
    (tmp_path / "x#y").mkdir()
    spans = {"a": range(5), "x#y/b": range(5, 6), "c": range(6, 13)}
    written = [
        write_records(tmp_path / name, [images[i] for i in span], span)
        for name, span in spans.items()
    ]
    return ";".join(map(str, written))


def test_several_files_train_to_the_last_bit_as_one_that_holds_them_all(numbered, parts):
    flags = ["--random-crop=1", "--random-mirror=1", "--pca-noise=0.1"]
    for first in (0, 5):  # resumed in the second epoch
        one, several = (
            pipeline.training_iterator(training_data(*flags, path=path), mx.cpu(), first)
            for path in (numbered, parts)
        )
        for _ in range(7):  # more than two epochs of 13
            expected, found = next(one), next(several)
            assert np.array_equal(expected.data[0].asnumpy(), found.data[0].asnumpy())
            assert np.array_equal(expected.label[0].asnumpy(), found.label[0].asnumpy())


def test_files_that_come_and_go_beside_the_records_are_no_fault(numbered, tmp_path):
    for ending in (".rec", ".idx"):
        shutil.copy(numbered.replace(".rec", ending), tmp_path / f"n{ending}")
    preparation = Preparation((3, 24, 24), None, (0, 0, 0), (1, 1, 1))
    beside = "import os\nwhile True: open('x', 'w').close(); os.unlink('x')"
    with subprocess.Popen([sys.executable, "-c", beside], cwd=tmp_path) as busy:
        try:
            found = pipeline.checked_records(str(tmp_path / "n.rec"))
            for _ in range(50):
                next(pipeline.evaluation_batches(found, preparation, 13, 1))
        finally:
            busy.kill()


def test_several_files_are_evaluated_as_one(numbered, parts):
    preparation, found = training_data(path=numbered).preparation, pipeline.checked_records(parts)
    batches = pipeline.evaluation_batches(found, preparation, 4, 1)
    labels = [batch.label[0].asnumpy()[:count] for batch, count in batches]
    assert np.concatenate(labels).tolist() == list(range(13))
    sample = [image.mean() for image in sample_images(found, 9, preparation)]
    assert sample == [
        image.mean() for image in sample_images(scan_records(numbered), 9, preparation)
    ]


def test_a_change_of_any_file_of_a_set_is_noticed(parts):
    files = parts.split(";")
    before = training_data(path=parts).fingerprint
    assert training_data(path=";".join(files[::-1])).fingerprint != before
    assert training_data(path=parts).fingerprint == before
    for ending in (".rec", ".idx", "-checksums.npy"):
        shutil.copy(files[0].replace(".rec", ending), files[2].replace(".rec", ending))
    assert training_data(path=parts).fingerprint != before


def test_a_faulty_file_of_a_set_is_named(parts):
    files = parts.split(";")
    for file, names in zip(files, ("cat\ndog\n", "cat\ndog\n", "dog\ncat\n")):
        with open(file.replace(".rec", "-classes.txt"), "w") as text:
            text.write(names)
    with pytest.raises(UserError, match="c.rec: its -classes.txt has other names than .*a.rec"):
        pipeline.checked_records(parts)
    with pytest.raises(UserError, match="^none.rec: no such record file"):
        pipeline.checked_records(f"{files[0]};none.rec")
    with open(files[1], "r+b") as content:
        content.truncate(20)
    with pytest.raises(UserError, match=r"x#y/b.rec: record 0 at byte 0"):
        pipeline.checked_records(parts)
