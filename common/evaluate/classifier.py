"""Name what is in pictures, with a checkpoint and the preparation it was trained with."""

import collections
import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from common.cli import UserError
from common.input.preparation import Preparation, read_file
from common.io import cpus
from common.io.opencv import cv2
from common.runtime.mxnet import mx

from . import network
from .pictures import Picture, check_listed, take, with_channels

MAX_PIXELS = 200_000_000  # of a picture: what the largest cameras of telephones have

# MXNet serves one thread at a time in a process: the outputs of a module are those of the last
# forward pass, whoever asked for it. It is held while the process forks, so that no child finds it
# locked by a thread that the child does not have.
_mxnet = threading.Lock()
os.register_at_fork(
    before=_mxnet.acquire, after_in_parent=_mxnet.release, after_in_child=_mxnet.release
)


class Guess(NamedTuple):
    """A class name and the probability that the network gives it, 0 to 1."""

    name: str
    probability: float


class Classifier:
    """A trained network, loaded once, and the preparation it was trained with.

    Any number of threads may call one classifier. They decode side by side; the network runs for
    one of them at a time, whatever classifier they call: one pass keeps all CPUs busy already.
    Several pictures in one call of :meth:`predict` are cheaper than several calls. A classifier can
    be pickled for a spawned process. In a forked one it works if no other thread was using MXNet.

    >>> classifier = Classifier("checkpoints/alexnet-cifar10", 3)
    >>> names, probabilities = classifier.predict(["cat.jpg", "lorry.png"], top=2)
    >>> names
    [['cat', 'dog'], ['truck', 'automobile']]
    >>> probabilities
    array([[0.91, 0.05], [0.98, 0.01]], dtype=float32)
    """

    def __init__(
        self,
        prefix: str,
        epoch: int,
        batch_size: int = 32,
        contexts: Optional[List[mx.Context]] = None,
        max_pixels: int = MAX_PIXELS,
        dtype: str = "float32",
    ):
        """Load ``PREFIX-symbol.json``, ``PREFIX-NNNN.params`` and ``PREFIX-config.json``.

        UserError if one of them is missing or damaged, or if it cannot run in ``dtype``, one of
        network.DTYPES. Attributes: ``checkpoint``, (prefix, epoch);
        ``classes``, names in the order of the network's output; ``preparation``, what is done to a
        picture; ``network``, (symbol, arg_params, aux_params). ``batch_size`` pictures run
        together, over all devices; up to an eighth as many run one by one. A file of more than
        ``max_pixels`` is refused, before it is decoded if possible.
        """
        self.checkpoint, self._contexts = (prefix, epoch), contexts or [mx.cpu()]
        with _mxnet:
            config, self.network = network.load(prefix, epoch, self._contexts)
            network.check_dtype(dtype, self.network[0], self._contexts)
        self.classes = network.class_names(config)
        self.preparation = Preparation.from_args(config["args"])
        self.batch_size = batch_size
        self._max_pixels, self._dtype = max_pixels, dtype
        self._modules = {}  # by the number of pictures that they are bound for, and the layer

    def __getstate__(self):
        """Everything but the bound modules, which the copy binds anew; weights as numpy arrays.

        multiprocessing would hand over MXNet's own arrays in shared memory, which a spawned process
        cannot open.
        """
        symbol, *params = self.network
        arrays = [{name: value.asnumpy() for name, value in group.items()} for group in params]
        return {**self.__dict__, "_modules": {}, "network": (symbol.tojson(), *arrays)}

    def __setstate__(self, state):
        self.__dict__.update(state)
        symbol, *arrays = self.network
        with _mxnet:
            params = [
                {name: mx.nd.array(value, dtype=value.dtype) for name, value in group.items()}
                for group in arrays
            ]
            self.network = (mx.sym.load_json(symbol), *params)

    def predict(
        self, pictures: Iterable[Picture], top: int = 5, rgb: bool = False
    ) -> Tuple[List[List[str]], np.ndarray]:
        """Name what is in N pictures; UserError if one has another form, is damaged or too large.

        A picture is a path, the content of a file as bytes, a binary file object, a PIL image, or
        pixels: a uint8 array of any height and width, (H, W) or (H, W, 1) grey, (H, W, 3) BGR as
        OpenCV reads them, R, G, B with ``rgb``, or (H, W, 4) with alpha. What is transparent is
        composited on white.

        It returns the names, a list of ``top`` for each picture, likeliest first, and their
        probabilities, (N, top) float32. No more than there are classes are given.
        """
        names, probabilities = [], []
        for guesses in self.stream(pictures, top, rgb):
            if isinstance(guesses, UserError):
                raise guesses
            names.append([guess.name for guess in guesses])
            probabilities.append([guess.probability for guess in guesses])
        shape = len(names), min(top, len(self.classes))
        return names, np.array(probabilities, np.float32).reshape(shape)

    def stream(
        self,
        pictures: Iterable[Picture],
        top: int = 5,
        rgb: bool = False,
        changes: Optional[List[str]] = None,
    ) -> Iterator[Union[List[Guess], UserError]]:
        """The same, picture by picture, for any number of them, such as the frames of a camera.

        No more of ``pictures`` is read than the next batch needs, except that the batch after it is
        read from a list or a tuple, too. A picture is copied before the next is read, so one array
        may hold them all in turn. ``changes`` is extended by what the files' pixels needed, such as
        "composited on white". UserError at once if ``top`` is below 1 or all is one picture; what
        is wrong with one of several comes in its place.
        """
        if top < 1:
            raise UserError(f"top {top}: has to be at least 1")
        check_listed(pictures)
        rows = self._rows(pictures, rgb, None, changes)
        return (one if isinstance(one, UserError) else self.guesses(one, top) for one in rows)

    def features(
        self,
        pictures: Iterable[Picture],
        layer: str,
        rgb: bool = False,
        changes: Optional[List[str]] = None,
    ) -> Iterator[Union[np.ndarray, UserError]]:
        """What a layer inside the network makes of pictures, such as 4,096 numbers of ``fc2``.

        As :meth:`stream`, with the layer's output for each picture, float32, such as (4096,) or
        (256, 6, 6). ``layer`` is a name in the table of ``python -m symbols NETWORK``; UserError at
        once if there is none of that name.
        """
        network.up_to(self.network, layer)
        check_listed(pictures)
        return self._rows(pictures, rgb, layer, changes)

    def prepare(self, picture: Picture) -> np.ndarray:
        """What the network sees of one picture: (C, H, W) float32, for :meth:`outputs`.

        UserError if the picture cannot be read, is damaged or too large.
        """
        image = self._prepare(take(picture, "picture", False, self._max_pixels), "picture", None)
        if isinstance(image, UserError):
            raise image
        return image

    def outputs(
        self, images: Iterable[np.ndarray], layer: Optional[str] = None
    ) -> Iterator[np.ndarray]:
        """The network's output, or that of ``layer``, for each image that is prepared already.

        No more of ``images``, each (C, H, W) float32, are read than the next batch needs. UserError
        if there is no such layer.
        """
        images = iter(images)
        for batch in iter(lambda: list(itertools.islice(images, self.batch_size)), []):
            yield from self._run(batch, layer)

    def _rows(self, pictures, rgb, layer, changes):
        """For each picture, what the network, or its part up to ``layer``, makes of it."""
        batches = 2 if isinstance(pictures, Sequence) else 1  # that are read
        numbered, waiting = enumerate(pictures), collections.deque()
        with ThreadPoolExecutor(cpus.available()) as threads:
            while True:
                wanted = batches * self.batch_size - len(waiting)
                for i, picture in itertools.islice(numbered, wanted):
                    waiting.append(self._submit(threads, picture, f"picture {i}", rgb, changes))
                count = min(self.batch_size, len(waiting))
                batch = [waiting.popleft().result() for _ in range(count)]
                if not batch:
                    return
                images = [item for item in batch if isinstance(item, np.ndarray)]
                rows = iter(self._run(images, layer))
                for item in batch:
                    yield item if isinstance(item, UserError) else next(rows)

    def _submit(self, threads, picture, name, rgb, changes):
        """The future of :meth:`_prepare` of one picture."""
        try:
            picture = take(picture, name, rgb, self._max_pixels)
        except (UserError, MemoryError) as error:
            picture = error  # what _prepare raises in its turn
        return threads.submit(self._prepare, picture, name, changes)

    def _prepare(self, picture, name, changes):
        """(C, H, W) float32 for the network, or the UserError that says why there is none."""
        try:
            if isinstance(picture, Exception):
                raise picture
            if isinstance(picture, str):
                picture, name = read_file(picture), picture
            if isinstance(picture, bytes):
                picture = self.preparation.decode(picture, name, self._max_pixels, changes)
            return self.preparation.apply(with_channels(picture, self.preparation.channels))
        except UserError as error:
            return error
        except MemoryError:
            return UserError(f"{name}: there is not enough memory for it")
        except cv2.error as error:
            return UserError(f"{name}: OpenCV refuses it: {' '.join(error.err.split())}")

    def _run(self, images, layer):
        """The outputs of ``layer``, or of the network, for at most a batch of images: (N, ...)."""
        if not images:
            return []
        if 1 < len(images) <= self.batch_size // 8:  # a whole batch would take longer
            return np.concatenate([self._run([image], layer) for image in images])
        size = 1 if len(images) == 1 else self.batch_size
        shape = (size, *images[0].shape)
        filled = np.zeros(shape, np.float32)
        filled[: len(images)] = images
        with _mxnet:
            if (size, layer) not in self._modules:
                part = network.up_to(self.network, layer) if layer else self.network
                contexts = self._contexts[:size]  # each needs an image
                self._modules[size, layer] = network.bind(*part, shape, contexts, self._dtype)
            said = network.outputs(self._modules[size, layer], mx.nd.array(filled))
            return said.asnumpy()[: len(images)]

    def guesses(self, probabilities: np.ndarray, top: int) -> List[Guess]:
        """The ``top`` likeliest classes of one output of the network, likeliest first."""
        best = np.argsort(-probabilities, kind="stable")[:top]
        return [Guess(self.classes[i], float(probabilities[i])) for i in best]
