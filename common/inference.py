"""Name what is in pictures, with a checkpoint and the preparation it was trained with."""

from typing import List, NamedTuple

import cv2
import mxnet as mx
import numpy as np

from common import checkpoint
from common.cli import UserError


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
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flag) if encoded else None
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
    crop = (crop[:, :, ::-1].astype(np.float32) - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(crop.transpose(2, 0, 1))


def _scaled(image, factor):
    height, width = image.shape[:2]
    size = max(1, int(width * factor + 1e-6)), max(1, int(height * factor + 1e-6))
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def bind(symbol, arg_params: dict, aux_params: dict, data_shape, context) -> mx.mod.Module:
    """A module that runs the plain network with these weights on (N, C, H, W) batches.

    Bind another for other weights: after its first forward pass MXNet's CPU build keeps its own
    copy of them, and what is set later is ignored without a word.
    """
    module = mx.mod.Module(symbol, context=context)
    module.bind([("data", data_shape)], [("softmax_label", data_shape[:1])], for_training=False)
    module.set_params(arg_params, aux_params)
    return module


class Classifier:
    """A trained network, loaded once.

    >>> classifier = Classifier("checkpoints/alexnet-cifar10", 3)
    >>> classifier.name_file("cat.jpg", top=5)
    [Guess(name='cat', probability=0.91), ...]
    """

    def __init__(self, prefix: str, epoch: int, context=None):
        """Load ``PREFIX-symbol.json``, ``PREFIX-NNNN.params`` and ``PREFIX-config.json``.

        Raises:
            UserError: one of the files is missing or damaged.
        """
        config = checkpoint.load_config(prefix)
        args = config["args"]
        self._preparation = preparation(args)
        self.classes = config["classes"] or [str(i) for i in range(args["num_classes"])]
        network = checkpoint.load(prefix, epoch)
        self._module = bind(*network, (1, *args["image_shape"]), context or mx.cpu())

    def name_file(self, path: str, top: int = 5) -> List[Guess]:
        """The ``top`` likeliest classes of the picture in ``path``, likeliest first.

        Raises:
            UserError: no such file, or not a picture that OpenCV reads.
        """
        with open(path, "rb") as file:
            image = decode(file.read(), self._preparation["image_shape"][0], path)
        return self.name_image(image, top)

    def name_image(self, image: np.ndarray, top: int = 5) -> List[Guess]:
        """The same for a decoded picture: (H, W, 3) BGR or (H, W) grey, uint8."""
        batch = mx.io.DataBatch([mx.nd.array(prepare(image, **self._preparation)[None])])
        self._module.forward(batch, is_train=False)
        probabilities = self._module.get_outputs()[0].asnumpy()[0]
        best = np.argsort(-probabilities, kind="stable")[:top]
        return [Guess(self.classes[i], float(probabilities[i])) for i in best]
