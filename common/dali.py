"""NVIDIA DALI as the reader of the training images: ``--data-backend dali``.

The same record files, augmentation and statistics as ImageRecordIter's, decoded faster. With
--gpus the first GPU decodes and augments (not tested: no usable GPU was at hand).

Order: DALI reads the file from end to end and draws each next image from a window over it. Here
the window is the whole file, so an epoch is a uniform permutation that has each image once. Each
epoch is a pipeline of its own, so that its order is known by --seed and its number alone. DALI
keeps the window's entries, not their pixels: about 0.6 KB and 14 us an image at an epoch's start,
18 s for ImageNet's.

An image that DALI cannot decode ends the run with an error; with several threads DALI 2.4 may crash
in place of reporting it (--data-nthreads 1 does not). data/folder.py packs none.
"""

import importlib.util
import itertools
from typing import Iterator, Optional

import numpy as np

from common import augmentation, prefetch, records
from common.cli import UserError

_CAN = {"--random-crop", "--random-mirror", "--pca-noise"}
# An odd pixel is left out below and at the right, as ImageRecordIter does.
_CENTRE = {"crop_pos_x": 0.5, "crop_pos_y": 0.5, "rounding": "truncate"}


def is_installed() -> bool:
    """Whether DALI can be imported."""
    return all(map(importlib.util.find_spec, ("nvidia", "nvidia.dali")))


def check_args(args) -> None:
    """Refuse what this backend has not got.

    Raises:
        UserError: DALI is not installed, or naming a flag that it does not carry out.
    """
    if not is_installed():
        raise UserError("--data-backend dali: is not installed; pip install '.[dali]'")
    cannot = sorted(augmentation.active(args) - _CAN)
    if cannot:
        raise UserError(f"{cannot[0]}: --data-backend dali cannot do it; leave one of them out")


def read(args, gpu: Optional[int], count: int, epoch: int) -> Iterator[prefetch.Chunk]:
    """An epoch's images, each once, normalised.

    Args:
        gpu: its number, None for the CPU.
        count: how many records the file has.

    Raises:
        UserError: DALI cannot read the file or prepare an image.
    """
    try:
        pipeline = _pipeline(args, gpu, count, epoch)
        for start in range(0, count, args.batch_size):
            images, labels = pipeline.run()
            rows = min(args.batch_size, count - start)
            labels = np.asarray(labels.as_tensor()).ravel()[:rows]
            yield prefetch.Chunk(labels, np.asarray(images.as_cpu().as_tensor())[:rows])
    except RuntimeError as error:
        text = str(error).rpartition("encountered:")[2]
        cause = next(filter(str.strip, text.splitlines()), "no reason given")
        raise UserError(
            f"{args.data_train}: DALI cannot prepare one of its images ({cause[:90]});"
            " set --resize if some are smaller than the crop, or pack the file again"
        ) from error


def _pipeline(args, gpu, count, epoch):
    """A pipeline of normalised images (N, C, H, W) and labels (N, 1); the file has ``count``."""
    from nvidia.dali import pipeline_def

    graph = pipeline_def(enable_conditionals=True)(_graph)
    options = dict(num_threads=args.data_nthreads, device_id=gpu, batch_size=args.batch_size)
    options.update(seed=augmentation.epoch_seed(args, epoch))
    pipeline = graph(args, gpu, count, epoch, **options)
    pipeline.build()
    return pipeline


def _graph(args, gpu, count, epoch):
    from nvidia.dali import fn, math, types

    channels, height, width = args.image_shape
    encoded, labels = fn.readers.mxnet(
        path=[args.data_train],
        index_path=[records.index_path(args.data_train)],
        random_shuffle=True,
        initial_fill=count,
    )
    decoded = fn.decoders.image(
        encoded,
        device="cpu" if gpu is None else "mixed",
        output_type=types.RGB if channels == 3 else types.GRAY,
    )
    if args.resize is not None:
        shape = decoded.shape()
        short = math.min(shape[0], shape[1])
        # To resize to the same size would take twice as long as all the rest.
        if short != args.resize:
            # As ImageRecordIter: the long side is rounded down, and no filter against aliasing.
            size = math.floor(shape[:2] * args.resize / short)
            decoded = fn.resize(decoded, size=size, antialias=False)
    images = fn.crop_mirror_normalize(
        decoded,
        crop=(height, width),
        mirror=fn.random.coin_flip() if args.random_mirror else 0,
        mean=fn.external_source(_means(args, epoch), batch=True),
        std=args.rgb_std,
        dtype=types.FLOAT,
        output_layout="CHW",
        **(_random_position(decoded.shape(), height, width) if args.random_crop else _CENTRE),
    )
    return images, labels


def _random_position(shape, height, width):
    """Every place equally likely; uniform from 0 to 1 would give the edges half of their share."""
    from nvidia.dali import fn, math

    places = {}
    for axis, side, crop in (("y", shape[0], height), ("x", shape[1], width)):
        spare = side - crop
        drawn = math.floor(fn.random.uniform(range=(0.0, 1.0)) * (spare + 1))
        places[f"crop_pos_{axis}"] = drawn / math.max(spare, 1)
    return dict(places, rounding="round")


def _means(args, epoch):
    """Yield for each batch what is taken off its images' channels, (N, C): mean, less lighting."""
    for batch in itertools.count():
        yield np.float32(args.rgb_mean) - augmentation.lighting(args, epoch, batch)
