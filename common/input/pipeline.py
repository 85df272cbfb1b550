"""Record files -> batches, through MXNet's ImageRecordIter or NVIDIA DALI; augmented for training.

The 2012 preparation is the default of the ImageNet recipe: short side 256, a random 227 crop, a
mirror image half of the time, PCA lighting of deviation 0.1; the centre crop for evaluation.
"""

import contextlib
import functools
import itertools
from typing import Iterator, Optional, Tuple

import numpy as np

from common import cli
from common.cli import UserError
from common.io import cpus
from common.io.log import quiet
from common.records import records
from common.runtime import native
from common.runtime.mxnet import mx

from . import augmentation, dali, prefetch


def add_data_args(parser) -> None:
    """Add the flags that say which images, and what is done to them before the network."""
    data = parser.add_argument_group("data")
    data.add_argument("--data-train", metavar="X.rec", help="training images (data/README.md)")
    data.add_argument("--data-val", metavar="X.rec", help="images to evaluate on each epoch")
    data.add_argument("--image-shape", type=cli.image_shape, help="what the network sees: C,H,W")
    data.add_argument("--num-classes", type=cli.positive_int, help="default: as the records have")
    data.add_argument("--num-examples", type=cli.positive_int, help="images an epoch; default: all")
    data.add_argument("--resize", type=cli.positive_int, help="short side before the crop, px")
    data.add_argument("--rgb-mean", type=cli.numbers, help="taken off each channel, R,G,B")
    data.add_argument("--rgb-std", type=cli.numbers, help="each channel is divided by, R,G,B")
    data.add_argument(
        "--data-nthreads", type=cli.positive_int, default=cpus.available(), help="decoding threads"
    )
    data.add_argument("--data-backend", choices=["mxnet", "dali"], default="mxnet", help="reader")
    data.add_argument(
        "--deterministic",
        action="store_true",
        help="the same weights, bit for bit, from the same flags; decodes with one thread, and GPUs"
        " have --cudnn-tune off",
    )
    data.add_argument(
        "--data-dtype",
        choices=["float32", "uint8"],
        default="float32",
        help="of training batches; uint8: a quarter of the bytes to copy, the devices normalise",
    )
    augmentation.add_args(parser)


def check_data_args(args) -> None:
    """Refuse combinations that MXNet would ignore, or die of.

    Raises:
        UserError: naming the flags.
    """
    channels = args.image_shape[0]
    for flag, values in (("--rgb-mean", args.rgb_mean), ("--rgb-std", args.rgb_std)):
        if len(values) != channels:
            raise UserError(f"{flag}: {len(values)} numbers for images of {channels} channels")
    if min(args.rgb_std) <= 0:
        raise UserError("--rgb-std: must be above 0")
    if args.resize is not None and args.resize < max(args.image_shape[1:]):
        raise UserError(
            f"--resize {args.resize}: is smaller than the crop, --image-shape"
            f" {','.join(map(str, args.image_shape))}"
        )
    augmentation.check_args(args)
    if args.data_backend == "dali":
        dali.check_args(args)


def open_records(
    path: str, num_classes: Optional[int] = None, least: int = 1, classes: Optional[list] = None
) -> records.Records:
    """Check the record file ``path``: structure, labels, and names against ``classes`` if known.

    Raises:
        UserError: a damaged file, a label that is no class number, or under ``least`` images.
    """
    found = records.scan(path)
    labels = found.labels
    whole = records.is_class(labels)
    if not whole.all():
        bad = int(np.argmin(whole))
        raise UserError(f"{path}: record {bad} has the label {labels[bad]:g}, not a class number")
    among = records.is_class(labels, num_classes)
    if not among.all():
        bad = int(np.argmin(among))
        raise UserError(
            f"{path}: record {bad} has the label {labels[bad]:g}, but there are {num_classes}"
            f" classes (0 to {num_classes - 1}); check --num-classes"
        )
    if classes and found.classes and classes != found.classes:
        raise UserError(f"{path}: its -classes.txt has other names than the training records' one")
    if len(found) < least:
        raise UserError(
            f"{path}: has {len(found)} images, fewer than --batch-size {least}; lower it"
        )
    return found


def count_classes(found: records.Records, wanted: Optional[int] = None) -> int:
    """The number of classes in the training records; ``wanted`` is --num-classes.

    Raises:
        UserError: the records have another number of classes than ``wanted``.
    """
    present = len(found.classes) if found.classes else int(found.labels.max()) + 1
    if wanted is not None and wanted != present:
        raise UserError(
            f"--num-classes {wanted}: {found.path} has {present} classes; leave the flag out"
        )
    return present


def count_examples(found: records.Records, wanted: Optional[int] = None) -> int:
    """How many images make an epoch; ``wanted`` is --num-examples.

    Raises:
        UserError: the file has fewer.
    """
    if wanted is not None and wanted > len(found):
        raise UserError(f"--num-examples {wanted}: {found.path} has {len(found)}")
    return wanted or len(found)


def training_iterator(
    args, context: mx.Context, images: int, first: int = 0, count: Optional[int] = None
):
    """Shuffled, augmented batches of ``args.data_train``, one epoch after the other, without end.

    Epoch n (from 0) has an order of its own, drawn by a generator seeded with (--seed, n): where a
    run goes on, what it has seen is left out by reading on from that epoch's beginning.

    Args:
        context: the first device; a GPU's batches lie in pinned memory.
        images: how many of the file's images make an epoch.
        first: how many batches to leave out.
        count: how many images the file has, where that is known.

    Returns:
        An iterator of data (N, C, H, W) float32 and softmax_label (N,), which keep their values
        while they are held. With --data-dtype uint8 data is not yet normalised, and the shift
        (N, C) comes with it. Each epoch has each image once; a batch in which one ends goes on with
        the next.
    """
    if count is None:
        with open(records.index_path(args.data_train)) as index:
            count = sum(1 for _ in index)
    if args.data_backend == "dali":
        gpu = context.device_id if context.device_type == "gpu" else None
        read = functools.partial(dali.read, args, gpu, count)
    else:
        read = functools.partial(_read, args, count)
    native.load()  # here, and not in two threads at once
    buffers = prefetch.Buffers(args, context, args.data_dtype)
    return prefetch.Ahead(prefetch.batches(read, images, args.batch_size, buffers, first))


# Images that are read at most before an epoch begins. All iterators draw the same crops and mirrors
# one after the other: without it there would be no more of them than the file has images.
_SHIFT = 1024


def _read(args, count, epoch):
    """An epoch's images, all ``count`` in the file, from ImageRecordIter, uint8.

    With ctx="cpu" it decodes with every core, but reads nothing ahead and writes each batch to the
    same memory. A new iterator for each epoch: only so is its order known by --seed and ``epoch``.
    """
    mean, std = np.float32(args.rgb_mean), np.float32(args.rgb_std)
    seed, size = augmentation.epoch_seed(args, epoch), args.batch_size
    options = dict(augmentation.options(args), batch_size=size, shuffle=True, seed=seed)
    # Each thread draws crops and mirrors by a generator of its own, for whichever images it gets.
    threads = 1 if args.deterministic else args.data_nthreads
    # Without round_batch the last batch's filling is noise, and the next pass is a whole one.
    options.update(dtype="uint8", round_batch=False)
    batches = _record_iterator(args, args.data_train, threads, **options)
    left = seed % max(1, _SHIFT // size)
    while left > 0:
        left -= sum(1 for _ in itertools.islice(batches, left))
        batches.reset()
    for number, batch in enumerate(batches):
        rows = min(size, count - number * size)
        shift = augmentation.lighting(args, epoch, number) - mean
        images = prefetch.memory(batch.data[0])[:rows]
        yield prefetch.Chunk(batch.label[0].asnumpy()[:rows], images, shift, std)


def evaluation_batches(
    args, path: str, images: int, batch_size: int
) -> Iterator[Tuple[mx.io.DataBatch, int]]:
    """Centre crops of the ``images`` records in ``path``, in order, each exactly once.

    Yields:
        A batch, and how many of its rows count; the rest of the last batch is filling.
    """
    # A new iterator each time: after a reset MXNet 1.9.1 mixes the last epoch's filling in.
    batches = _record_iterator(args, path, args.data_nthreads, batch_size=batch_size)
    for i, batch in enumerate(epoch(batches, path, -(-images // batch_size))):
        yield batch, min(batch_size, images - i * batch_size)


def epoch(batches: mx.io.DataIter, path: str, steps: int) -> Iterator[mx.io.DataBatch]:
    """At most ``steps`` of the coming batches of ``path``.

    Raises:
        UserError: MXNet cannot decode an image; it does not say which.
    """
    with _decoding(path):
        yield from itertools.islice(batches, steps)


def synthetic(args, context: mx.Context) -> Iterator[mx.io.DataBatch]:
    """``--benchmark 1``: the same random batch over and over, so that no data is read."""
    rng, size = np.random.RandomState(0), args.batch_size
    images = rng.randint(0, 256, (size, *args.image_shape), np.uint8)
    labels = rng.randint(0, args.num_classes, size).astype(np.float32)
    shift = np.tile(-np.float32(args.rgb_mean), (size, 1))
    chunk = prefetch.Chunk(labels, images, shift, np.float32(args.rgb_std))
    buffers = prefetch.Buffers(args, context, args.data_dtype)
    batches = prefetch.batches(lambda epoch: [chunk], size, size, buffers, first=0)
    return itertools.repeat(next(batches))


def _record_iterator(args, path, threads, **options):
    for name, mean, std in zip("rgb", args.rgb_mean, args.rgb_std):
        options[f"mean_{name}"], options[f"std_{name}"] = mean, std
    if args.resize is not None:
        options["resize"] = args.resize
    options.update(
        ctx="cpu",  # decodes with every core; without it, each iterator leaks 23 MB
        device_id=-1,
        path_imgrec=path,
        path_imgidx=records.index_path(path),
        data_shape=args.image_shape,
        verbose=args.verbose,
    )
    unknown = [name for name in options if f"\n{name} : " not in mx.io.ImageRecordIter.__doc__]
    if unknown:  # MXNet ignores what it does not know
        raise TypeError(f"ImageRecordIter has no {', '.join(unknown)}")
    native.load()  # with it an image that cannot be decoded is an error, without it a crash
    with _decoding(path), quiet(args.verbose), _openmp_threads(threads):
        return mx.io.ImageRecordIter(**options)


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
            f" augmentation flags, or find the image: python -m data.check {path} --decode"
        ) from error
