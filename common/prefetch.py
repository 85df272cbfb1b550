"""Batches prepared while the network runs: a thread, memory that is used again, normalisation."""

import ctypes
import queue
import sys
import threading
import weakref

import mxnet as mx
import numpy as np

from common import native


class Ahead:
    """The items of an iterator, taken at most two ahead by a daemon thread.

    An exception in the thread, such as StopIteration, is raised where the item is asked for.
    ``stop()`` ends the thread after the item it is at; dropping the object and the program's exit
    do so too, so that no thread is inside MXNet while the process goes down.
    """

    def __init__(self, items):
        room, ready, stopped = threading.Semaphore(2), queue.SimpleQueue(), threading.Event()

        def fill():  # without a reference to self, which would keep it from being dropped
            while room.acquire() and not stopped.is_set():
                try:
                    ready.put(next(items))
                except BaseException as error:
                    ready.put(error)
                    return

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
            self._ready.put(item)  # for whoever asks again
            raise item
        self._room.release()
        return item


def normalise(images: mx.nd.NDArray, shift: np.ndarray, std: np.ndarray, out) -> None:
    """``out`` = (images + shift) / std, of uint8 (N, C, H, W), float32 (N, C) and (C,).

    It runs in the calling thread and not through MXNet's engine: there it would compete with the
    network, whose training took 10% longer.
    """
    x, y = _memory(images), _memory(out)
    if native.load():
        function = native.library().alexnet_normalize
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (x, shift, std, y)]
        function(*pointers, *map(ctypes.c_int64, (x.shape[0], x.shape[1], x[0, 0].size)))
    else:
        np.add(x, shift[:, :, None, None], out=y, dtype=np.float32)
        np.divide(y, std[:, None, None], out=y)


def _memory(array):
    """A numpy array of the same memory, once the engine is through with it."""
    pointer = ctypes.c_void_p()
    mx.base.check_call(mx.base._LIB.MXNDArrayWaitToWrite(array.handle))
    mx.base.check_call(mx.base._LIB.MXNDArrayGetData(array.handle, ctypes.byref(pointer)))
    items = ctypes.cast(pointer, ctypes.POINTER(np.ctypeslib.as_ctypes_type(array.dtype)))
    return np.ctypeslib.as_array(items, array.shape)


class Buffers:
    """Memory for batches, used again once nobody holds it: to fill fresh memory takes longer."""

    def __init__(self, args, context: mx.Context):
        self._shape = (args.batch_size, *args.image_shape)
        gpu = context.device_type == "gpu"
        self._context = mx.cpu_pinned(context.device_id) if gpu else mx.cpu()
        self._arrays = []

    def take(self) -> mx.nd.NDArray:
        """A float32 array (N, C, H, W); its values are what was there before."""
        for i in range(len(self._arrays)):
            if sys.getrefcount(self._arrays[i]) == 2:  # the list's, and that of this very call
                return self._arrays[i]
        self._arrays.append(mx.nd.empty(self._shape, ctx=self._context))
        return self._arrays[-1]
