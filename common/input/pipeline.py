"""Record files -> batches, read by MXNet's ImageRecordIter or NVIDIA DALI.

Training images are shuffled and augmented. Evaluation sees the centre crop of each image, once.
"""

import contextlib
import functools
import itertools
import os
import sys
import tempfile
from typing import Iterator, Optional, Tuple

import numpy as np

from common.cli import UserError
from common.io.log import Progress, RunLog
from common.records.class_names import is_class
from common.records.identity import check_command, record_files
from common.records.scan import Records, index_of, scan_records
from common.runtime import native
from common.runtime.mxnet import mx

from . import copies, dali, order, prefetch
from .preparation import Preparation
from .training_data import TrainingData


def checked_records(
    path: str, num_classes: Optional[int] = None, least: int = 1, classes: Optional[list] = None
) -> Records:
    """The record file ``path``, once its structure, labels and class names are checked.

    Labels must be below ``num_classes`` (None: as many as the file has class names); ``classes``
    are the class names of the training records; ``least`` images make a batch.
    """
    records = scan_records(path)
    if classes and records.classes and classes != records.classes:
        raise UserError(f"{path}: its -classes.txt has other names than the training records' one")
    _check_labels(records, num_classes, classes)
    if len(records) < least:
        raise UserError(
            f"{path}: has {len(records)} images, fewer than --batch-size {least}; lower it"
        )
    return records


def _check_labels(records, num_classes, classes):
    if num_classes is None and records.classes:
        num_classes = len(records.classes)
        remedy = "its -classes.txt lacks names, or is of another file"
    elif classes:
        remedy = "leave such images out, or train with names for them in -classes.txt"
    else:
        least = 1 + int(np.max(records.labels[is_class(records.labels)], initial=0))
        remedy = f"leave such images out, or train with --num-classes {least}"
    for limit in (None, num_classes):
        fits = is_class(records.labels, limit)
        if fits.all():
            continue
        number = int(np.argmin(fits))
        said = f"{records.path}: record {number} has the label {records.labels[number]:g}"
        if limit is None:
            raise UserError(f"{said}, not a class number")
        raise UserError(
            f"{said}, but there are {num_classes} classes (0 to {num_classes - 1}); {remedy}"
        )


def training_iterator(data: TrainingData, context: mx.Context, first: int = 0) -> prefetch.Ahead:
    """Shuffled, augmented batches of ``data``, one epoch after the other, without end.

    Epoch n (from 0) has an order of its own, drawn by a generator that is seeded with (seed, n). A
    resumed run reads its epoch from the beginning and skips the ``first`` batches, which it has
    seen. ``context`` is the first device: a GPU's batches lie in pinned memory.

    A batch, data (N, C, H, W) float32 and softmax_label (N,), keeps its values as long as it is
    held. If ``data.dtype`` is "uint8", the images are not normalised yet, and a third array, the
    shift (N, C), comes with them. :func:`prefetch.batches` says how epochs become batches.
    """
    images = data.images
    if data.share.size > 1:  # one endless epoch: a worker's epochs are not all of one length
        read = functools.partial(_read_share, data, first)
        images, first = sys.maxsize, 0
    elif data.backend == "dali":
        gpu = context.device_id if context.device_type == "gpu" else None
        read = functools.partial(dali.read, data, gpu)
    else:
        read = functools.partial(_read, data)
    native.load()  # before two threads can do it at once
    buffers = prefetch.Buffers(data.batch_shape, context, data.dtype)
    return prefetch.Ahead(prefetch.batches(read, images, data.preparation, buffers, first))


def _read(data, epoch):
    """All images of the file in the order of an epoch, by ImageRecordIter, uint8.

    With ctx="cpu" it decodes with every core, but reads nothing ahead and writes each batch to the
    same memory. Each epoch has a new iterator; otherwise its order would depend on earlier epochs.
    """
    records, number, size = data.records, itertools.count(), data.batch_size
    parts = [(None, len(records))]
    if data.balanced:
        seed = data.augmentation.epoch_seed(epoch)
        parts = copies.files(records, order.balanced(records.labels, data.images, seed), size)
    for part, (files, count) in enumerate(parts):
        seed = data.augmentation.epoch_seed(epoch, part)
        for labels, images in _decoded(data, seed, files, count):
            light = data.augmentation.lighting(data.batch_shape[:2], epoch, next(number))
            yield prefetch.Chunk(labels, images, light)


def _read_share(data, first, _):
    """A worker's part of each batch from batch ``first`` on, without end, as `_read` has images."""
    size = data.batch_shape[0]
    for epoch in itertools.count(first * data.batch_size // data.images):
        own = data.share.positions(epoch, data.images, data.batch_size)
        own = own[own >= first * data.batch_size - epoch * data.images]
        numbers = order.order(data, epoch)[own]
        parts = copies.files(data.records, numbers, size) if len(own) else ()
        for part, (files, count) in enumerate(parts):
            seed = data.augmentation.epoch_seed(epoch, 1 + part * data.share.size + data.share.rank)
            for labels, images in _decoded(data, seed, files, count, shuffle=False):
                at, own = np.split(own, [len(labels)])
                light = order.lighting(data, epoch, at)
                yield prefetch.Chunk(labels, images, light)


def _decoded(data, seed, files, count, shuffle=True):
    """Labels and images, cropped and mirrored, by batches, of ``count`` records.

    ``files`` are the record file and index that were drawn; None for the records themselves.
    """
    size = min(data.batch_shape[0], count)
    options = dict(data.augmentation.options, batch_size=size, shuffle=shuffle, seed=seed)
    # Without round_batch the last batch ends in noise, but the next pass is complete.
    options.update(dtype="uint8", round_batch=False)
    # Each thread draws crops and mirrors by a generator of its own, for whichever images it gets.
    batches = _record_iterator(data.records, data.preparation, data.threads, files, **options)
    offset = order.offset(seed, size)
    while offset > 0:
        offset -= sum(1 for _ in itertools.islice(batches, offset))
        batches.reset()
    for number, batch in enumerate(batches):
        rows = min(size, count - number * size)
        yield batch.label[0].asnumpy()[:rows], prefetch.memory(batch.data[0])[:rows]


def evaluation_batches(
    records: Records,
    preparation: Preparation,
    batch_size: int,
    threads: int,
    numbers: Optional[np.ndarray] = None,
) -> Iterator[Tuple[mx.io.DataBatch, int]]:
    """Batches of centre crops of all records, or those with ``numbers``, a batch at least.

    They come in order, each exactly once, and with each batch how many of its rows count: the rest
    of the last one is padding. ``threads`` decode.
    """
    # A new iterator each time: after a reset MXNet 1.9.1 mixes the last epoch's padding in.
    parts = [(None, len(records))]
    if numbers is not None:
        parts = copies.files(records, numbers, batch_size)
    for files, total in parts:
        batches = _record_iterator(records, preparation, threads, files, batch_size=batch_size)
        for i, batch in enumerate(take(batches, records.path, -(-total // batch_size))):
            yield batch, min(batch_size, total - i * batch_size)


def take(batches: mx.io.DataIter, path: str, count: int) -> Iterator[mx.io.DataBatch]:
    """At most ``count`` of the coming batches of ``path``; UserError if one cannot be decoded."""
    with _decoding(path):
        yield from itertools.islice(batches, count)


def run_batches(data: TrainingData, context: mx.Context, first: int) -> Iterator[mx.io.DataBatch]:
    """The batches of a run from batch ``first`` on, without end; synthetic ones without records.

    The first batch is read before this returns, so that what the reader refuses is refused here.
    """
    if data.records is None:
        return synthetic(data, context)
    batches = training_iterator(data, context, first)
    one = list(take(batches, data.name, 1))
    return itertools.chain(iter(one), batches)


def synthetic(data: TrainingData, context: mx.Context) -> Iterator[mx.io.DataBatch]:
    """``--benchmark 1``: the same random batch over and over, and no file is read."""
    rng, size = np.random.RandomState(0), data.batch_shape[0]
    images = rng.randint(0, 256, data.batch_shape, np.uint8)
    labels = rng.randint(0, data.num_classes, size).astype(np.float32)
    chunk = prefetch.Chunk(labels, images, np.zeros(data.batch_shape[:2], np.float32))
    buffers = prefetch.Buffers(data.batch_shape, context, data.dtype)
    batches = prefetch.batches(lambda _: [chunk], size, data.preparation, buffers, first=0)
    return itertools.repeat(next(batches))


def test_io(data: TrainingData, batches: Iterator, disp_batches: int) -> None:
    """``--test-io 1``: read one epoch and print how fast that is; no network runs."""
    with Progress(RunLog(), "reading", data.images, disp_batches) as progress:
        for batch in take(batches, data.name, -(-data.images // data.batch_size)):
            batch.data[0].wait_to_read()
            progress.update(data.batch_size)


def _record_iterator(records, preparation, threads, drawn=None, **options):
    for name, mean, std in zip("rgb", preparation.mean, preparation.std):
        options[f"mean_{name}"], options[f"std_{name}"] = mean, std
    if preparation.resize is not None:
        options["resize"] = preparation.resize
    index, opened = (drawn[1], None) if drawn else index_of(records)
    folder, links = _linked(drawn[:1] if drawn else record_files(records.path), index)
    options.update(
        ctx="cpu",  # decodes with every core; without it, each iterator leaks 23 MB
        device_id=-1,
        path_imgrec=";".join(links[:-1]),
        path_imgidx=links[-1],
        data_shape=preparation.image_shape,
        verbose=False,
    )
    native.load()  # with it an image that cannot be decoded is an error, without it a crash
    native.drop_lines(native.MXNET_NOISE)
    with _decoding(records.path), _openmp_threads(threads):
        batches = mx.io.ImageRecordIter(**options)
    batches.files = folder, opened  # they stay as long as it lives
    return batches


def _linked(paths, index):
    """A folder, removed when it is dropped, and its links to the files and their index, for MXNet.

    MXNet reads ``a;b`` as two files, and what follows ``?`` and ``#`` as options. It also looks at
    every file beside the one that it opens, and fails if a file, such as another program's
    temporary one, disappears meanwhile.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="alexnet-mxnet-")
        links = [os.path.join(folder.name, f"{number}.rec") for number in range(len(paths))]
        links.append(os.path.join(folder.name, "idx"))
        for path, link in zip([*paths, index], links):
            os.symlink(os.path.abspath(path), link)
    except OSError as error:
        raise UserError(f"TMPDIR: no folder for temporary files can be made: {error.strerror}")
    return folder, links


@contextlib.contextmanager
def _openmp_threads(count):
    """Let an iterator made in the block decode with ``count`` threads, now and later.

    With ctx="cpu" ImageRecordIter heeds OpenMP's number and not preprocess_threads.
    """
    openmp = mx.base._LIB  # it is linked with OpenMP
    before = openmp.omp_get_max_threads()
    openmp.omp_set_num_threads(count)
    try:
        yield
    finally:
        openmp.omp_set_num_threads(before)


@contextlib.contextmanager
def _decoding(path):
    """Name the file whose image MXNet cannot decode; a new iterator already reads a batch."""
    try:
        yield
    except mx.base.MXNetError as error:
        cause = str(error).strip().splitlines()[-1].rpartition(": ")[2]
        raise UserError(
            f"{path}: MXNet cannot prepare one of its images ({cause[:90]}); look at the"
            f" augmentation flags, or find the image: {check_command(path)}"
        ) from error
