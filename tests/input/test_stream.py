"""Every image exactly once an epoch: whatever the sizes, the interruptions and the devices."""

import itertools

import mxnet as mx
import numpy as np
import pytest
from conftest import bands, write_records
from test_pipeline import training_data

import train_imagenet
from common.input import pipeline, prefetch
from common.input.preparation import Preparation
from common.train import loop


class Reader:
    """Epochs of ``size`` images in orders of their own; image i is [i, i + 1] and has label i."""

    def __init__(self, size, seed):
        self.size, self._seed = size, seed

    def order(self, epoch):
        return np.random.RandomState([self._seed, epoch]).permutation(self.size)

    def chunks(self, epoch):
        """The epoch's order in pieces of random sizes."""
        rng = np.random.RandomState([self._seed, epoch, 1])
        cuts = rng.choice(np.arange(1, self.size), rng.randint(self.size), replace=False)
        return np.split(self.order(epoch), np.sort(cuts))

    def read(self, epoch):
        for numbers in self.chunks(epoch):
            images = np.stack([numbers, numbers + 1], axis=1)[:, None, None].astype(np.uint8)
            labels = numbers.astype(np.float32)
            yield prefetch.Chunk(labels, images, labels[:, None])

    def pixels(self, numbers):
        """What a batch holds of these images, (N, 2)."""
        return (np.stack([numbers, numbers + 1], axis=1) + numbers[:, None]) / 0.5


def interruptions(rng, batches):
    """Cut ``batches`` batches at random: (first, how many) of each life."""
    stops = np.unique([*rng.randint(0, batches, rng.randint(5)), 0, batches])
    return zip(stops, np.diff(stops))


@pytest.mark.parametrize("seed", range(300))
def test_a_cut_stream_has_every_image_exactly_once_an_epoch(seed):
    rng = np.random.RandomState(seed)
    reader, batch_size = Reader(rng.randint(1, 61), seed), rng.randint(1, 65)
    images = rng.randint(1, reader.size + 1)  # --num-examples
    epochs = rng.randint(2, 6)
    batches = -(-epochs * images // batch_size)
    seen = []
    for first, count in interruptions(rng, batches):
        buffers = prefetch.Buffers((batch_size, 1, 1, 2), mx.cpu())
        preparation = Preparation((1, 1, 2), None, (0,), (0.5,))
        stream = prefetch.batches(reader.read, images, preparation, buffers, first)
        epoch, past = divmod(first * batch_size, images)
        ends = np.cumsum([len(chunk) for chunk in reader.chunks(epoch)])
        for _ in range(np.sum(ends <= past)):
            assert next(stream) is None  # a chunk that is left out
        for batch in itertools.islice(stream, int(count)):
            numbers = batch.label[0].asnumpy().astype(int)
            pixels = batch.data[0].asnumpy().reshape(batch_size, 2)
            assert np.array_equal(pixels, reader.pixels(numbers))
            seen.extend(numbers)
    past_the_end = -(-batches * batch_size // images)
    expected = np.concatenate([reader.order(epoch)[:images] for epoch in range(past_the_end)])
    assert np.array_equal(seen, expected[: batches * batch_size])


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Size -> a record file of so many pictures; picture i has the label i and the colour 4 i."""
    folder = tmp_path_factory.mktemp("numbered")
    images = [np.full((24, 24, 3), 4 * i, np.uint8) for i in range(60)]
    return {
        size: write_records(folder / f"n{size}", images[:size], range(size))
        for size in (1, 2, 13, 60)
    }


@pytest.mark.parametrize("seed", range(32))
def test_real_records_come_exactly_once_an_epoch_over_interruptions(numbered, seed):
    rng = np.random.RandomState(seed)
    size = list(numbered)[seed % len(numbered)]
    flags = ["--data-nthreads=2", "--random-crop=1", "--random-mirror=1", "--num-classes=60"]
    flags += ["--deterministic"] * (seed // len(numbered) % 2)
    batch_size = rng.randint(1, size + 1)  # ImageRecordIter takes no larger one
    images = size if seed % 3 else rng.randint(1, size + 1)
    options = dict(path=numbered[size], batch_size=batch_size, seed=seed, images=images)
    data = training_data(*flags, **options)
    batches = -(-4 * images // batch_size)
    seen = []
    for first, count in interruptions(rng, batches):
        stream = pipeline.training_iterator(data, mx.cpu(), first)
        for batch in itertools.islice(stream, int(count)):
            labels = batch.label[0].asnumpy()
            assert (batch.data[0].asnumpy() == 4 * labels[:, None, None, None]).all()
            seen.extend(labels.astype(int))
    epochs = [seen[start : start + images] for start in range(0, 4 * images, images)]
    assert all(len(set(epoch)) == images for epoch in epochs)
    if images == size:
        assert all(set(epoch) == set(range(size)) for epoch in epochs)
    if size > 2:
        assert len(set(map(tuple, epochs))) == 4


class Interrupted(Exception):
    """The end of a life."""


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """50 grey pictures; the label of each is its number."""
    images, _ = bands(50, seed=4)
    return write_records(tmp_path_factory.mktemp("few") / "few", images, range(50))


@pytest.fixture
def live(few, tmp_path, monkeypatch):
    """Train in this process: (devices, batches or None for all) -> what the devices were given.

    That is (labels, pictures) of each batch, put together from the devices' parts of it.
    """
    prefix = tmp_path / "x"

    def life(cpus, batches=None, *more):
        flags = ["--network", "lenet", "--dataset", "mnist", "--data-train", few, "--num-epochs", 3]
        flags += ["--batch-size", 12, "--deterministic", "--save-minutes", 1e-9, "--cpus", cpus]
        flags += ["--model-prefix", prefix, *more]
        monkeypatch.setattr("sys.argv", ["train_imagenet.py", *map(str, flags)])
        given = []
        step = loop.Run._step

        def watched(run, batch, title):
            if len(given) == batches:
                raise Interrupted
            step(run, batch, title)
            group = run.module._exec_group
            parts = group.label_arrays[0], group.data_arrays[0]
            given.append([np.concatenate([a.asnumpy() for _, a in arrays]) for arrays in parts])
            assert len(parts[0]) == cpus

        monkeypatch.setattr(loop.Run, "_step", watched)
        if batches is None:
            train_imagenet.main()
        else:
            with pytest.raises(Interrupted):
                train_imagenet.main()
        monkeypatch.setattr(loop.Run, "_step", step)
        return given

    return life


def test_devices_are_given_the_same_batches_whatever_their_number_in_each_life(live):
    whole = live(1)
    assert len(whole) == 13  # 3 epochs of 50 images, 12 at a time
    labels = np.concatenate([batch[0] for batch in whole])
    for start in (0, 50, 100):
        assert sorted(labels[start : start + 50]) == list(range(50))
    lives = [live(2, 3, "--overwrite"), live(1, 4, "--resume"), live(3, 2, "--resume")]
    lives.append(live(2, None, "--resume"))
    for ours, theirs in zip(itertools.chain(*lives), whole):
        assert np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1])
    assert [len(life) for life in lives] == [3, 4, 2, 4]
