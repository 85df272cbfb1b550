"""Name what is in pictures, with a checkpoint and the preparation it was trained with."""

import collections
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from common.cli import UserError
from common.input.preparation import Preparation
from common.io import cpus
from common.runtime.mxnet import mx

from . import network

Picture = Union[str, os.PathLike, np.ndarray]


class Guess(NamedTuple):
    """A class name and the probability that the network gives it, 0 to 1."""

    name: str
    probability: float


class Classifier:
    """A trained network, loaded once, and the preparation it was trained with.

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
    ):
        """Load ``PREFIX-symbol.json``, ``PREFIX-NNNN.params`` and ``PREFIX-config.json``.

        Args:
            batch_size: pictures that run together, over all devices. A lone one runs by itself.
            contexts: the devices; the CPU by default.

        Raises:
            UserError: one of the files is missing or damaged.
        """
        self._contexts = contexts or [mx.cpu()]
        config, self._network = network.load(prefix, epoch, self._contexts)
        self.classes = network.class_names(config)
        self._preparation = Preparation.from_args(config["args"])
        self._batch_size = batch_size
        self._modules = {}  # by the number of pictures that they are bound for

    def predict(
        self, pictures: Iterable[Picture], top: int = 5
    ) -> Tuple[List[List[str]], np.ndarray]:
        """Name what is in N pictures.

        Args:
            pictures: paths of files, or decoded pictures: uint8 arrays of any height and width,
                (H, W, 3) BGR as OpenCV reads them, or (H, W) for a network of grey pictures.
            top: guesses a picture; no more than there are classes.

        Returns:
            The names, a list of ``top`` for each picture, likeliest first, and their probabilities,
            (N, top) float32.

        Raises:
            UserError: a file cannot be read, or is not a picture that OpenCV reads.
        """
        top = min(top, len(self.classes))
        names, probabilities = [], []
        for guesses in self.stream(pictures, top):
            if isinstance(guesses, UserError):
                raise guesses
            names.append([guess.name for guess in guesses])
            probabilities.append([guess.probability for guess in guesses])
        return names, np.array(probabilities, np.float32).reshape(len(names), top)

    def stream(
        self, pictures: Iterable[Picture], top: int = 5
    ) -> Iterator[Union[List[Guess], UserError]]:
        """The same, picture by picture, for any number of them: threads decode what comes next.

        Yields:
            For each picture, in order, its ``top`` likeliest classes or what is wrong with it.
        """
        prepared = self._prepare_ahead(pictures)
        while True:
            batch = list(itertools.islice(prepared, self._batch_size))
            if not batch:
                return
            images = [image for image in batch if not isinstance(image, UserError)]
            rows = iter(self._run(images))
            for item in batch:
                yield item if isinstance(item, UserError) else self._guesses(next(rows), top)

    def _prepare_ahead(self, pictures):
        """Each picture as :meth:`_prepare` returns it, in order, up to two batches ahead."""
        with ThreadPoolExecutor(cpus.available()) as threads:
            waiting = collections.deque()
            for picture in pictures:
                waiting.append(threads.submit(self._prepare, picture))
                if len(waiting) > 2 * self._batch_size:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _prepare(self, picture):
        """(C, H, W) float32 for the network, or the UserError that says why there is none."""
        try:
            if isinstance(picture, np.ndarray):
                return self._preparation.apply(picture)
            return self._preparation.load(picture)
        except UserError as error:
            return error

    def _run(self, images):
        """The probabilities of at most a batch of prepared images: (N, classes)."""
        if not images:
            return []
        size = 1 if len(images) == 1 else self._batch_size
        shape = (size, *images[0].shape)
        if size not in self._modules:
            contexts = self._contexts[:size]  # each needs an image
            self._modules[size] = network.bind(*self._network, shape, contexts)
        filled = np.zeros(shape, np.float32)
        filled[: len(images)] = images
        said = network.probabilities(self._modules[size], mx.nd.array(filled))
        return said.asnumpy()[: len(images)]

    def _guesses(self, probabilities, top):
        best = np.argsort(-probabilities, kind="stable")[:top]
        return [Guess(self.classes[i], float(probabilities[i])) for i in best]
