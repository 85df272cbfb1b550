"""Workers that share each batch read, all together, exactly the batches of one process."""

import dataclasses
import itertools

import numpy as np
import pytest
from conftest import write_records
from test_pipeline import training_data

from common.input import order, pipeline
from common.input.share import Share
from common.records.scan import scan_records


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """43 plain pictures; picture i has the label i and the grey value 5 i."""
    images = [np.full((24, 24, 3), 5 * i, np.uint8) for i in range(43)]
    return write_records(tmp_path_factory.mktemp("numbered") / "n", images, range(43))


def read(data, count, first=0):
    """Labels and pixels of ``count`` batches."""
    batches = itertools.islice(pipeline.training_iterator(data, pipeline.mx.cpu(), first), count)
    pairs = [(b.label[0].asnumpy(), b.data[0].asnumpy()[:, :, 0, 0]) for b in batches]
    return [np.stack(part) for part in zip(*pairs)]


@pytest.mark.parametrize(
    "workers, images, first", [(2, None, 0), (3, None, 10), (2, 13, 3), (3, 12, 1)]
)
def test_together_they_read_the_batches_of_one_process(numbered, workers, images, first):
    data = training_data("--pca-noise", "0.1", path=numbered, batch_size=12, images=images, seed=3)
    whole = read(data, 5, first)
    shares = [Share(rank, workers) for rank in range(workers)]
    parts = [read(dataclasses.replace(data, share=share), 5, first) for share in shares]
    labels, pixels = (np.concatenate(part, axis=1) for part in zip(*parts))
    assert np.array_equal(labels, whole[0])
    assert np.array_equal(pixels, whole[1])


@pytest.mark.parametrize("images, batch_size, workers", [(43, 12, 3), (13, 12, 4), (100, 6, 6)])
def test_each_image_goes_to_exactly_one_worker_an_epoch(images, batch_size, workers):
    for epoch in range(5):
        parts = [
            Share(rank, workers).positions(epoch, images, batch_size) for rank in range(workers)
        ]
        assert sorted(np.concatenate(parts)) == list(range(images))
        assert min(map(len, parts)) >= batch_size // workers


@pytest.mark.parametrize("count", [1, 2, 3, 43, 70_000])
def test_each_record_is_validated_by_exactly_one_worker(count):
    parts = [Share(rank, 3).part(count) for rank in range(3)]
    assert np.array_equal(np.concatenate(parts), np.arange(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("passes", [0, 1, 2])
def test_the_order_is_that_of_mxnet(numbered, passes):
    for seed in (0, 7, 2**31 - 1):
        options = dict(batch_size=4, shuffle=True, seed=seed, dtype="uint8", round_batch=False)
        data = training_data(path=numbered)
        records = scan_records(numbered)
        batches = pipeline._record_iterator(records, data.preparation, 1, **options)
        for _ in range(passes):
            next(batches)
            batches.reset()
        labels = np.concatenate([batch.label[0].asnumpy() for batch in batches])[:43]
        assert np.array_equal(labels, order.shuffled(43, seed, passes))
