"""Batches that a thread prepares while the network computes, in memory that is reused."""

import ctypes
import itertools
import queue
import sys
import threading
import weakref
from typing import Callable, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from common.runtime import native
from common.runtime.mxnet import mx

from .preparation import Preparation


class Ahead(Iterator):
    """The items of an iterator that are not None, taken at most two ahead by a daemon thread.

    An exception in the thread, such as StopIteration, is raised where the item is asked for.
    ``stop()`` ends the thread after the item it is at; dropping the object and the program's exit
    do so too, so that no thread is inside MXNet while the process goes down.
    """

    def __init__(self, items):
        room, ready, stopped = threading.Semaphore(2), queue.SimpleQueue(), threading.Event()

        def fill():  # without a reference to self, which would keep it from being dropped
            while room.acquire() and not stopped.is_set():
                try:
                    item = next(items)
                except BaseException as error:
                    ready.put(error)
                    return
                if item is None:
                    room.release()
                else:
                    ready.put(item)

        def stop():
            stopped.set()
            room.release()
            thread.join()

        thread = threading.Thread(target=fill, daemon=True)
        self._room, self._ready, self.stop = room, ready, weakref.finalize(self, stop)
        thread.start()

    def __next__(self):
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)  # for the next call
            raise item
        self._room.release()
        return item


def memory(array: mx.nd.NDArray) -> np.ndarray:
    """A numpy array that shares the memory, once the engine has finished writing it."""
    pointer = ctypes.c_void_p()
    mx.base.check_call(mx.base._LIB.MXNDArrayWaitToWrite(array.handle))
    mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
    items = ctypes.cast(pointer, ctypes.POINTER(np.ctypeslib.as_ctypes_type(array.dtype)))
    return np.ctypeslib.as_array(items, array.shape)


class Chunk(NamedTuple):
    """Consecutive images of an epoch, as a reader yields them."""

    labels: np.ndarray  # (N,) float32
    images: np.ndarray  # (N, C, H, W) uint8
    lighting: np.ndarray  # (N, C) float32: is added to the images


def normalise(images: np.ndarray, shift: np.ndarray, std: np.ndarray, out: np.ndarray) -> None:
    """``out`` = (images + shift) / std, of uint8 (N, C, H, W), float32 (N, C) and (C,).

    If ``out`` is uint8, it gets the images as they are: the devices normalise them. It runs in the
    calling thread and not through MXNet's engine, where it would compete with the network: training
    took 10% longer.
    """
    if out.dtype == np.uint8:
        out[:] = images
    elif native.load():
        sizes = images.shape[0], images.shape[1], images[0, 0].size
        _call(native.library().alexnet_normalize, (images, shift, std, out), sizes)
    else:
        np.add(images, shift[:, :, None, None], out=out, dtype=np.float32)
        np.divide(out, std[:, None, None], out=out)


def crop(
    images: List[np.ndarray], corners: np.ndarray, mirrored: np.ndarray, size: Tuple[int, int]
) -> np.ndarray:
    """Crops of ``size`` (height, width) of uint8 images (rows, columns, C): (N, C, H, W) uint8.

    ``corners`` (N, 2) are row and column of each crop's upper left corner, and it fits into the
    image; ``mirrored`` (N,) says which are turned left to right.
    """
    out = np.empty((len(images), images[0].shape[2], *size), np.uint8)
    cuts = [image[y:, x:] for image, (y, x) in zip(images, corners)]
    if native.load():
        starts = np.array([cut.__array_interface__["data"][0] for cut in cuts], np.uintp)
        rows = np.array([image.strides[0] for image in images], np.int64)
        arrays = starts, rows, mirrored.astype(np.uint8), out
        _call(native.library().alexnet_crop, arrays, out.shape)
    else:
        for cut, mirror, to in zip(cuts, mirrored, out):
            cut = cut[: size[0], : size[1]]
            to[:] = np.moveaxis(cut[:, ::-1] if mirror else cut, 2, 0)
    return out


def _call(function, arrays, sizes):
    """Call one of native/pixels.h's functions, which take the arrays' memory, then integers."""
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    function(*pointers, *map(ctypes.c_int64, sizes))


def batches(
    read: Callable[[int], Iterable[Chunk]],
    images: int,
    preparation: Preparation,
    buffers: "Buffers",
    first: int,
) -> Iterator[Optional[mx.io.DataBatch]]:
    """Cut the endless sequence of epochs into batches, one after the other.

    ``read`` gives the images of an epoch by its number, from 0, always the same ones in the same
    order; ``images`` make an epoch. A batch in which one ends is filled up with the next one's
    first images, so that each image is there exactly once an epoch.

    A batch has data, softmax_label and, if data is uint8, precision.SHIFT. The ``first`` ones are
    left out, since an earlier run has seen them: after each chunk of them comes None, so that the
    thread can be stopped in between.
    """
    batch_size = buffers.shape[0]
    mean, std = np.float32(preparation.mean), np.float32(preparation.std)
    data, labels, filled = None, np.empty(batch_size, np.float32), 0
    shift = np.empty(buffers.shape[:2], np.float32)
    for part in _unseen(read, images, first * batch_size):
        if part is None:
            yield None
            continue
        chunk, at, end = part
        while at < end:
            if filled == 0:
                data = None  # this reference would keep the last batch's memory from being reused
                data = buffers.take()
            stop = min(end, at + batch_size - filled)
            place = slice(filled, filled + stop - at)
            shift[place] = chunk.lighting[at:stop] - mean
            normalise(chunk.images[at:stop], shift[place], std, memory(data)[place])
            labels[place] = chunk.labels[at:stop]
            at, filled = stop, place.stop % batch_size
            if filled == 0:
                yield _batch(data, shift, labels)


def _unseen(read, images, first):
    """Yield (chunk, begin, end) from image ``first`` of the run on; None for a chunk before it."""
    start, skip = divmod(first, images)
    for epoch in itertools.count(start):
        seen = 0
        for chunk in read(epoch):
            end = min(len(chunk.labels), images - seen)
            begin = min(end, max(0, skip - seen))
            seen += end
            yield (chunk, begin, end) if begin < end else None
            if seen == images:
                break
        skip = 0


def _batch(data, shift, labels):
    inputs = [data, mx.nd.array(shift)] if data.dtype == np.uint8 else [data]
    return mx.io.DataBatch(inputs, [mx.nd.array(labels)], pad=0)


class Buffers:
    """Memory for batches, reused once nobody holds it: fresh memory is slower to fill.

    For a GPU it is pinned, so that the copy to the GPU overlaps with computation.
    """

    def __init__(self, shape: Tuple[int, ...], context: mx.Context, dtype: str = "float32"):
        self.shape, self._dtype = shape, dtype
        gpu = context.device_type == "gpu"
        self._context = mx.cpu_pinned(context.device_id) if gpu else mx.cpu()
        self._arrays = []

    def take(self) -> mx.nd.NDArray:
        """An array (N, C, H, W) of ``dtype``; its values are arbitrary."""
        for i in range(len(self._arrays)):
            if sys.getrefcount(self._arrays[i]) == 2:  # the list's, and that of this very call
                return self._arrays[i]
        self._arrays.append(mx.nd.empty(self.shape, self._context, self._dtype))
        return self._arrays[-1]
