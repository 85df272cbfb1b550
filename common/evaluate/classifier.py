"""Name what is in pictures, with a checkpoint and the preparation it was trained with."""

import collections
import contextlib
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from common.checkpoint import store
from common.checkpoint.config import load_config
from common.cli import UserError
from common.graph.lowering import MANY, lower_native
from common.io import cpus
from common.io.opencv import cv2
from common.records import records
from common.runtime import native
from common.runtime.mxnet import mx

Picture = Union[str, os.PathLike, np.ndarray]


class Guess(NamedTuple):
    """A class name and how likely the network finds it, 0 to 1."""

    name: str
    probability: float


def decode(encoded: bytes, channels: int, source: str) -> np.ndarray:
    """The picture in ``encoded`` bytes: (H, W, 3) BGR, or (H, W) grey for 1 channel; uint8.

    Raises:
        UserError: not a picture that OpenCV reads; the message begins with ``source``.
    """
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag) if encoded else None
    except cv2.error as error:
        raise UserError(f"{source}: OpenCV refuses it: {error.err}")
    if image is None:
        raise UserError(f"{source}: is not a picture that OpenCV can read")
    return image


def preparation(args: dict) -> dict:
    """What :func:`prepare` needs beside the picture, from a checkpoint's ``config["args"]``."""
    names = {"image_shape": "image_shape", "resize": "resize", "mean": "rgb_mean", "std": "rgb_std"}
    return {name: args[flag] for name, flag in names.items()}


def prepare(image: np.ndarray, image_shape, resize, mean, std) -> np.ndarray:
    """What evaluation does to a picture: short side to ``resize``, centre crop, normalise.

    Args:
        image: (H, W, 3) BGR, or (H, W) grey for networks of one channel; uint8.
        image_shape: (C, H, W) of the network.
        resize: short side in pixels, None to leave the size.
        mean, std: C numbers each, in R, G, B order.

    Returns:
        (C, H, W) float32, R, G, B order: what MXNet's ImageRecordIter makes of the same picture.
    """
    channels, height, width = image_shape
    if resize is not None:
        image = _scaled(image, resize / min(image.shape[:2]))
    short = max(height / image.shape[0], width / image.shape[1])
    if short > 1:  # smaller than the crop: enlarged until it covers it
        image = _scaled(image, short)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    crop = image[top : top + height, left : left + width].reshape(height, width, channels)
    planes = np.array(crop[:, :, ::-1].transpose(2, 0, 1), np.float32, order="C")
    planes -= np.float32(mean)[:, None, None]
    planes /= np.float32(std)[:, None, None]
    return planes


def _scaled(image, factor):
    height, width = image.shape[:2]
    size = max(1, int(width * factor + 1e-6)), max(1, int(height * factor + 1e-6))
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def sample_images(found: records.Records, count: int, prepared: dict) -> Iterator[np.ndarray]:
    """``count`` of the records, prepared as for evaluation.

    They are drawn from the whole file, since it may be sorted by class, and are the same each time.

    Args:
        prepared: ``image_shape``, ``resize``, ``mean`` and ``std`` of :func:`prepare`.

    Yields:
        (C, H, W) float32 arrays.

    Raises:
        UserError: a record's image cannot be decoded.
    """
    chosen = np.random.RandomState(0).permutation(len(found))[:count]
    reader = mx.recordio.MXIndexedRecordIO(records.index_path(found.path), found.path, "r")
    with contextlib.closing(reader):
        for i in sorted(chosen):
            _, encoded = mx.recordio.unpack(reader.read_idx(reader.keys[i]))
            channels = prepared["image_shape"][0]
            image = decode(encoded, channels, f"{found.path}: record {i}")
            yield prepare(image, **prepared)


def bind(symbol, arg_params: dict, aux_params: dict, data_shape, context) -> mx.mod.Module:
    """A module that runs the plain network with these weights on (N, C, H, W) batches.

    On the CPU, with many images a batch, our operators compute convolutions and fully connected
    layers.
    Bind another for other weights: after its first forward pass MXNet's CPU build keeps its own
    copy of them, and what is set later is ignored without a word.
    """
    contexts = context if isinstance(context, list) else [context]
    images = data_shape[0] // len(contexts)
    if contexts[0].device_type == "cpu" and images >= MANY and native.load():
        symbol = lower_native(symbol, (images, *data_shape[1:]), for_training=False)
    labels = None  # what export_mxnet.py writes has none
    if "softmax_label" in symbol.list_arguments():
        labels = [("softmax_label", data_shape[:1])]
    module = mx.mod.Module(symbol, label_names=labels and ["softmax_label"], context=context)
    module.bind([("data", data_shape)], labels, for_training=False)
    module.set_params(arg_params, aux_params)
    return module


def load(prefix: str, epoch: int, contexts: List[mx.Context]) -> Tuple[dict, tuple]:
    """A checkpoint that is to run on ``contexts``: its config and what :func:`bind` takes of it.

    Raises:
        UserError: a file is missing or damaged, or an int8 checkpoint is to run on a GPU.
    """
    config = load_config(prefix)
    if "int8" in config and contexts[0].device_type == "gpu":
        raise UserError("--gpus: an int8 checkpoint runs on the CPU only; leave the flag out")
    return config, store.load(prefix, epoch)


def class_names(config: dict) -> List[str]:
    """The names of a checkpoint's classes, or their numbers where it has no names."""
    return config["classes"] or [str(i) for i in range(config["args"]["num_classes"])]


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
        config, self._network = load(prefix, epoch, self._contexts)
        self.classes = class_names(config)
        self._preparation = preparation(config["args"])
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
            if not isinstance(picture, np.ndarray):
                picture = decode(_read(picture), self._preparation["image_shape"][0], str(picture))
            return prepare(picture, **self._preparation)
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
            self._modules[size] = bind(*self._network, shape, contexts)
        filled = np.zeros(shape, np.float32)
        filled[: len(images)] = images
        module = self._modules[size]
        module.forward(mx.io.DataBatch([mx.nd.array(filled)]), is_train=False)
        return module.get_outputs()[0].asnumpy()[: len(images)]

    def _guesses(self, probabilities, top):
        best = np.argsort(-probabilities, kind="stable")[:top]
        return [Guess(self.classes[i], float(probabilities[i])) for i in best]


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}")
    except ValueError as error:  # such as a null byte in the path
        raise UserError(f"{path!r}: {error}")
