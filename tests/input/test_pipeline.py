"""Batches for training and for evaluation."""

import itertools
import shutil

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import write_records
from pictures import photo

from common import cli
from common.cli import UserError
from common.input import flags as data_flags
from common.input import pipeline, prefetch
from common.input.augmentation import Augmentation
from common.input.preparation import Preparation
from common.input.training_data import TrainingData
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
        verbose=False,
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


def test_deterministic_batches_repeat_whatever_the_threads(picture):
    flags = ["--random-crop=1", "--random-mirror=1", "--pca-noise=0.3", "--data-nthreads=2"]
    data = training_data("--deterministic", *flags, path=picture[0], batch_size=6)

    def read(first, count):
        batches = pipeline.training_iterator(data, mx.cpu(), first)
        return [batch.data[0].asnumpy() for batch in itertools.islice(batches, count)]

    whole = read(0, 12)
    assert np.array_equal(whole, read(0, 12))
    assert np.array_equal(whole[7:], read(7, 5))
    assert len({batch.tobytes() for batch in whole}) == 12


def test_with_one_thread_crops_mirrors_and_lighting_repeat(picture):
    flags = ["--random-crop=1", "--random-mirror=1", "--pca-noise=0.3"]
    first, again = batch_of(picture[0], *flags), batch_of(picture[0], *flags)
    assert np.array_equal(first, again)


def test_without_native_operators_batches_are_the_same(picture, monkeypatch):
    flags = ["--random-crop=1", "--pca-noise=0.3", "--rgb-mean=9,8,7", "--rgb-std=2,3,4"]
    with_native = batch_of(picture[0], *flags)
    monkeypatch.setattr("common.runtime.native.load", lambda: False)
    assert np.array_equal(batch_of(picture[0], *flags), with_native)


def test_grey_images_are_normalised(tmp_path):
    images = [np.full((24, 24, 1), value, np.uint8) for value in (50, 60, 70, 80)]
    path = write_records(tmp_path / "grey", images, range(4))
    data = training_data("--rgb-mean=30", "--rgb-std=10", path=path, shape=(1, 20, 20))
    batch = next(pipeline.training_iterator(data, mx.cpu()))
    assert batch.data[0].shape == (4, 1, 20, 20)
    means = batch.data[0].asnumpy().mean(axis=(1, 2, 3))
    assert np.allclose(means, 2 + batch.label[0].asnumpy())


def test_lighting_depends_on_seed_epoch_and_batch_alone():
    drawn = {}
    for key in itertools.product((0, 1), (0, 1), (0, 1)):
        augmentation = Augmentation.from_args(arguments("--pca-noise=0.1", seed=key[0]))
        drawn[key] = augmentation.lighting((400, 3), *key[1:])
        assert np.array_equal(drawn[key], augmentation.lighting((400, 3), *key[1:]))
    assert len({values.tobytes() for values in drawn.values()}) == 8
    # Deviations along the axes: 55.46, 4.794 and 1.148 times --pca-noise.
    deviations = np.linalg.svd(np.concatenate(list(drawn.values())))[1] / np.sqrt(3200)
    assert np.allclose(deviations, [5.546, 0.4794, 0.1148], rtol=0.06)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """One smooth colour picture, 16 times, for looking at what augmentation does to it."""
    rng = np.random.RandomState(0)
    image = cv2.resize(rng.randint(0, 255, (6, 6, 3)).astype(np.uint8), (40, 40))
    prefix = tmp_path_factory.mktemp("picture") / "p"
    return write_records(prefix, [image] * 16, [0, 1] * 8), image


def batch_of(path, *flags):
    data_flags.check_data_args(arguments(*flags, path=path))
    data = training_data(*flags, path=path, batch_size=16)
    return next(pipeline.training_iterator(data, mx.cpu())).data[0].asnumpy()


@pytest.mark.parametrize(
    "flags",
    [
        ["--random-crop=1"],
        ["--random-mirror=1"],
        ["--pca-noise=0.3"],
        ["--random-resized-crop=1", "--min-random-area=0.2"],
        ["--min-crop-size=15", "--max-crop-size=30"],
        ["--min-random-scale=0.6"],
        ["--max-random-scale=1.5"],
        ["--max-random-aspect-ratio=0.3"],
        ["--min-random-aspect-ratio=0.7", "--max-random-aspect-ratio=1.4"],
        ["--max-random-rotate-angle=20"],
        ["--max-random-shear-ratio=0.3"],
        ["--max-random-h=30"],
        ["--max-random-s=60"],
        ["--max-random-l=60"],
        ["--brightness=0.4"],
        ["--contrast=0.4"],
        ["--saturation=0.4"],
        ["--pad-size=9", "--random-crop=1", "--fill-value=9"],
    ],
    ids=lambda flags: flags[0][2:],
)
def test_each_augmentation_changes_the_images_and_varies(picture, flags):
    path, _ = picture
    plain, augmented = batch_of(path), batch_of(path, *flags)
    assert (plain == plain[0]).all()
    assert not (augmented == augmented[0]).all()


def test_without_augmentation_training_sees_the_centre_crop(picture):
    path, image = picture
    expected = Preparation((3, 20, 20), None, (0, 0, 0), (1, 1, 1)).apply(image)
    assert np.array_equal(batch_of(path)[5], expected)


def test_lighting_adds_one_colour_along_imagenets_axes(picture):
    path, _ = picture
    change = batch_of(path, "--pca-noise=0.5") - batch_of(path)
    inside = change[:, :, 5:15, 5:15]  # one colour all over the picture, but for saturation
    assert np.median(inside.std(axis=(2, 3))) < 0.01
    shifts = np.median(inside, axis=(2, 3))
    # The first axis has 92% of the variance: nearly grey, R and B and G alike.
    _, _, axes = np.linalg.svd(shifts)
    assert abs(axes[0] @ [0.5836, 0.5807, 0.5676]) > 0.97


@pytest.mark.parametrize("size", [(37, 53), (64, 40), (20, 20), (24, 31)])
@pytest.mark.parametrize("resize", [None, 22, 30])
def test_prediction_prepares_a_picture_as_evaluation_does(tmp_path, size, resize):
    image = np.random.RandomState(1).randint(0, 255, (*size, 3)).astype(np.uint8)
    path = write_records(tmp_path / "one", [image], [0])
    preparation = Preparation((3, 20, 20), resize, (10, 20, 30), (2, 3, 4))
    batch, _ = next(pipeline.evaluation_batches(scan_records(path), preparation, 1, threads=1))
    ours = preparation.apply(image)
    assert np.abs(batch.data[0].asnumpy()[0] - ours).max() <= 0.5 + 1e-6  # one grey level / std


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


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--rgb-mean=1,2"], "--rgb-mean"),
        (["--rgb-std=1,0,1"], "--rgb-std"),
        (["--resize=19"], "--resize"),
        (["--random-resized-crop=1"], "--min-random-area"),
        (["--min-random-area=0.5"], "--random-resized-crop"),
        (["--random-resized-crop=1", "--min-random-area=0.5", "--random-crop=1"], "--random-crop"),
        (["--min-crop-size=15"], "--max-crop-size"),
        (["--max-crop-size=15"], "--min-crop-size"),
        (["--min-random-scale=2"], "--max-random-scale"),
        (["--min-random-aspect-ratio=0.7"], "--max-random-aspect-ratio"),
    ],
)
def test_flags_that_mxnet_would_ignore_are_refused(flags, words):
    with pytest.raises(UserError, match=words):
        data_flags.check_data_args(arguments(*flags))


def test_colour_augmentation_of_grey_images_is_refused():
    with pytest.raises(UserError, match="--pca-noise"):
        data_flags.check_data_args(arguments("--pca-noise=0.1", shape=(1, 20, 20)))


def test_an_option_mxnet_does_not_know_cannot_reach_it(numbered):
    with pytest.raises(TypeError, match="rand_mirorr"):
        preparation = training_data(path=numbered).preparation
        options = {"batch_size": 2, "rand_mirorr": True}
        pipeline._record_iterator(numbered, preparation, 1, verbose=False, **options)


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
    with pytest.raises(UserError, match="--num-classes 4: .* has 3 class names"):
        training_data("--num-classes=4", path=path)


def test_validation_records_of_other_classes_are_refused(tmp_path):
    path = write_records(tmp_path / "x", [np.zeros((8, 8, 3), np.uint8)] * 2, [0, 1], ["a", "b"])
    assert len(pipeline.checked_records(path, 2, classes=["a", "b"])) == 2
    with pytest.raises(UserError, match="x.rec: its -classes.txt has other names"):
        pipeline.checked_records(path, 2, classes=["b", "a"])


def test_a_batch_larger_than_the_data_is_refused(numbered):
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
