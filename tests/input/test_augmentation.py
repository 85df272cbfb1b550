"""What varies training images, and what it refuses."""

import itertools

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import write_records
from test_pipeline import arguments, training_data

from common.cli import UserError
from common.input import flags as data_flags
from common.input import pipeline
from common.input.augmentation import Augmentation
from common.input.preparation import Preparation


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


@pytest.mark.parametrize("flag", ["--random-crop=1", "--random-mirror=1", "--pca-noise=0.3"])
def test_no_two_batches_or_epochs_are_varied_alike(picture, flag):
    data = training_data(flag, path=picture[0], batch_size=8)  # two batches an epoch
    batches = itertools.islice(pipeline.training_iterator(data, mx.cpu()), 6)
    assert len({batch.data[0].asnumpy().tobytes() for batch in batches}) == 6


def test_with_one_thread_crops_mirrors_and_lighting_repeat(picture):
    flags = ["--random-crop=1", "--random-mirror=1", "--pca-noise=0.3"]
    first, again = batch_of(picture[0], *flags), batch_of(picture[0], *flags)
    assert np.array_equal(first, again)


def test_without_native_operators_batches_are_the_same(picture, monkeypatch):
    flags = ["--random-crop=1", "--pca-noise=0.3", "--rgb-mean=9,8,7", "--rgb-std=2,3,4"]
    with_native = batch_of(picture[0], *flags)
    monkeypatch.setattr("common.runtime.native.load", lambda: False)
    assert np.array_equal(batch_of(picture[0], *flags), with_native)


@pytest.mark.parametrize(
    "flags",
    [
        ["--random-crop=1"],
        ["--random-mirror=1"],
        ["--pca-noise=0.3"],
        ["--random-resized-crop=1", "--min-random-area=0.2"],
        ["--min-crop-size=15", "--max-crop-size=30"],
        ["--max-crop-size=16", "--min-crop-size=16", "--random-crop=1"],
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


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--rgb-mean=1,2"], "--rgb-mean"),
        (["--rgb-std=1,0,1"], "--rgb-std"),
        (["--resize=19"], "--resize"),
        (["--resize=25", "--image-shape=3,20,30"], "--resize"),
        (["--random-resized-crop=1"], "--min-random-area"),
        (["--min-random-area=0.5"], "--random-resized-crop"),
        (["--random-resized-crop=1", "--min-random-area=0.5", "--random-crop=1"], "--random-crop"),
        (
            ["--random-resized-crop=1", "--min-random-area=.5", "--max-random-scale=2"],
            "-max-random-s",
        ),
        (["--min-crop-size=16", "--max-crop-size=15"], "larger than --max-crop-size"),
        (["--min-crop-size=15"], "--max-crop-size"),
        (["--max-crop-size=15"], "--min-crop-size"),
        (["--min-random-scale=2"], "--max-random-scale"),
        (["--min-random-aspect-ratio=0.7"], "--max-random-aspect-ratio"),
    ],
)
def test_flags_that_mxnet_would_ignore_are_refused(flags, words):
    with pytest.raises(UserError, match=words):
        data_flags.check_data_args(arguments(*flags))


@pytest.mark.parametrize(
    "flag",
    ["--pca-noise=0.1", "--brightness=0.1", "--contrast=0.1", "--saturation=0.1"]
    + [f"--max-random-{kind}=9" for kind in "hsl"],
)
def test_colour_augmentation_of_grey_images_is_refused(flag):
    with pytest.raises(UserError, match=flag.partition("=")[0]):
        data_flags.check_data_args(arguments(flag, shape=(1, 20, 20)))
