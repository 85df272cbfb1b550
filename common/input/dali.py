"""NVIDIA DALI as the reader of the training images: ``--data-backend dali``.

The same record files, augmentation and statistics as ImageRecordIter's, decoded faster. With
--gpus the first GPU decodes and augments (not tested: no usable GPU was at hand).

Order: DALI reads the file from end to end and draws each next image from a window over it. Here
the window is the whole file, so an epoch is a uniform permutation that has each image once. Each
epoch is a pipeline of its own, so that its order depends on --seed and its number alone. DALI
keeps the window's entries, not their pixels: about 0.6 KB and 14 us an image at an epoch's start,
18 s for ImageNet's.

An image that DALI cannot decode ends the run with an error; with several threads DALI 2.4 may crash
in place of reporting it (--data-nthreads 1 does not). data/folder.py packs none.
"""

import argparse
import importlib.util
from typing import Iterator, Optional

import numpy as np

from common.cli import UserError
from common.records.identity import check_command, record_files
from common.records.scan import index_of
from common.runtime import native

from . import augmentation, prefetch
from .training_data import TrainingData

_CAN = {"--random-crop", "--random-mirror", "--pca-noise"}


def is_installed() -> bool:
    """Whether DALI can be imported."""
    return all(map(importlib.util.find_spec, ("nvidia", "nvidia.dali")))


def check_args(args: argparse.Namespace) -> None:
    """Refuse flags that DALI cannot carry out, and all if it is not installed."""
    if not is_installed():
        raise UserError("--data-backend dali: is not installed; pip install '.[dali]'")
    cannot = sorted(augmentation.active(args) - _CAN)
    if cannot:
        raise UserError(f"{cannot[0]}: --data-backend dali cannot do it; leave one of them out")


def read(data: TrainingData, gpu: Optional[int], epoch: int) -> Iterator[prefetch.Chunk]:
    """An epoch's images, each once, cropped and mirrored, uint8, by a GPU or (None) the CPU.

    UserError if DALI cannot read the file or prepare an image, or one is smaller than the crop.
    """
    count, path = len(data.records), data.records.path
    if native.load():
        # Threads that crop and normalise. That takes a fifth of the time of decoding, which DALI's
        # own threads do meanwhile.
        native.library().omp_set_num_threads(max(1, data.threads // 4))
    try:
        pipeline = _pipeline(data, gpu, epoch)
        for number, start in enumerate(range(0, count, data.batch_size)):
            decoded, labels = pipeline.run()
            rows = min(data.batch_size, count - start)
            decoded = decoded.as_cpu()
            images = [np.asarray(decoded[i]) for i in range(rows)]
            labels = np.asarray(labels.as_tensor()).ravel()[:rows]
            lighting = data.augmentation.lighting(data.batch_shape[:2], epoch, number)
            crops = _crops(data, epoch, number, images)
            yield prefetch.Chunk(labels, crops, lighting[:rows])
    except RuntimeError as error:
        text = str(error).rpartition("encountered:")[2]
        cause = next(filter(str.strip, text.splitlines()), "no reason given")
        raise UserError(
            f"{path}: DALI cannot prepare one of its images ({cause[:90]});"
            f" find it: {check_command(path)}; or pack the file again"
        ) from error


def _pipeline(data, gpu, epoch):
    """A pipeline of images (height, width, C), uint8, and labels (1,)."""
    from nvidia.dali import pipeline_def

    graph = pipeline_def(enable_conditionals=True)(_graph)
    options = dict(num_threads=data.threads, device_id=gpu, batch_size=data.batch_size)
    options.update(seed=data.augmentation.epoch_seed(epoch))
    paths = record_files(data.records.path)
    index, file = index_of(data.records)
    pipeline = graph(data, gpu, paths, index, **options)
    pipeline.build()
    pipeline.index = file  # it stays open as long as the pipeline lives
    return pipeline


def _graph(data, gpu, paths, index):
    from nvidia.dali import fn, math, types

    encoded, labels = fn.readers.mxnet(
        path=paths, index_path=[index], random_shuffle=True, initial_fill=len(data.records)
    )
    images = fn.decoders.image(
        encoded,
        device="cpu" if gpu is None else "mixed",
        output_type=types.RGB if data.preparation.channels == 3 else types.GRAY,
    )
    if data.preparation.resize is not None:
        shape = images.shape()
        short = math.min(shape[0], shape[1])
        # To resize to the same size would take twice as long as all the rest.
        if short != data.preparation.resize:
            # As ImageRecordIter: the long side is rounded down, and no filter against aliasing.
            size = math.floor(shape[:2] * data.preparation.resize / short)
            images = fn.resize(images, size=size, antialias=False)
    return images, labels


def _crops(data, epoch, batch, images):
    """A batch's images, cropped and mirrored: (N, C, H, W) uint8.

    DALI's own crops, which also separate the channels, take 2.5 times as long.
    """
    size = data.preparation.image_shape[1:]
    margins = np.array([image.shape[:2] for image in images]) - size
    if margins.min() < 0:
        height, width, _ = images[int(np.argmin(margins.min(axis=1)))].shape
        raise UserError(
            f"{data.records.path}: one of its images is {width}x{height}, smaller than the crop,"
            " --image-shape; set --resize"
        )
    corners, mirrored = data.augmentation.crops(epoch, batch, margins)
    return prefetch.crop(images, corners, mirrored, size)
