"""Loss and accuracy over images, each counted exactly once."""

import argparse
import math
from typing import Iterator, Optional, Tuple

import numpy as np

from common.cli import UserError
from common.input import pipeline
from common.records.scan import Records
from common.runtime.mxnet import mx

from . import classifier


def resolve_top_k(args) -> None:
    """Set ``args.top_k`` where the flag is not given: 5, or as many as tell something.

    Raises:
        UserError: --top-k is not below the number of classes, so it would always be 100%.
    """
    if args.top_k is None:
        args.top_k = max(1, min(5, args.num_classes - 1))
    elif args.top_k >= args.num_classes:
        raise UserError(f"--top-k {args.top_k}: there are only {args.num_classes} classes")


def wilson(right: int, count: int) -> Tuple[float, float]:
    """Wilson's 95% interval of a share of which ``right`` out of ``count`` were seen."""
    z2 = 1.959964**2
    centre = right + z2 / 2
    half = math.sqrt(z2 * (right * (count - right) / count + z2 / 4))
    return (centre - half) / (count + z2), (centre + half) / (count + z2)


class Scores:
    """Running cross-entropy, top-1 and top-k accuracy.

    A class counts as ranked before the true one when its probability is equal or higher, so a
    network that says the same for every class scores 0, not by luck of the order.
    """

    def __init__(self, top_k: int = 5):
        self.top_k = top_k
        self.count = 0
        self._loss = 0.0
        self._hits = np.zeros(2)

    def state(self) -> list:
        """The sums so far, exactly, as JSON has them; :meth:`restore` takes them."""
        return [self.count, self._loss, *self._hits.tolist()]

    def restore(self, state: list) -> None:
        """Go on from another's :meth:`state`."""
        self.count, self._loss = state[:2]
        self._hits = np.array(state[2:], float)

    def update(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Add n images: ``probabilities`` (n, classes), ``labels`` (n,) class numbers."""
        true = probabilities[np.arange(len(labels)), labels.astype(int)]
        rank = (probabilities >= true[:, None]).sum(axis=1)
        rank[~np.isfinite(true)] = probabilities.shape[1] + 1
        self._loss -= np.log(np.maximum(true, 1e-30)).sum(dtype=float)
        self._hits += [(rank <= 1).sum(), (rank <= self.top_k).sum()]
        self.count += len(labels)

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats."""
        return self._loss / max(self.count, 1)

    @property
    def top1(self) -> float:
        """Share of images whose first guess is right."""
        return self._hits[0] / max(self.count, 1)

    @property
    def topk(self) -> float:
        """Share of images whose class is among the first ``top_k`` guesses."""
        return self._hits[1] / max(self.count, 1)

    def figures(self) -> dict:
        """Loss and accuracies by their names, as logs show them."""
        return {"loss": self.loss, "top-1": self.top1, f"top-{self.top_k}": self.topk}

    def right(self) -> dict:
        """How many images the accuracies count, by the same names."""
        return dict(zip(("top-1", f"top-{self.top_k}"), self._hits.astype(int).tolist()))

    def intervals(self) -> dict:
        """The 95% intervals of the accuracies, (low, high), by the same names."""
        return {name: wilson(right, self.count) for name, right in self.right().items()}


def check_crops(args) -> None:
    """Make sure that ten crops are ten pictures.

    Args:
        args: has ``crops``, and ``resize`` and ``image_shape`` as the network was trained.

    Raises:
        UserError: there is nothing around the crop.
    """
    crop = min(args.image_shape[1:])
    if args.crops > 1 and (args.resize or crop) <= crop:
        raise UserError(
            f"--crops {args.crops}: needs a checkpoint trained with a --resize above its crop of"
            f" {crop} pixels; this one has {args.resize or 'none'}; leave the flag out"
        )


def ten_crops(square: mx.nd.NDArray, height: int, width: int) -> Iterator[mx.nd.NDArray]:
    """The corners and the centre of pictures, and their mirror images.

    Args:
        square: (N, C, S, S).

    Yields:
        Ten arrays (N, C, height, width).
    """
    down, right = square.shape[2] - height, square.shape[3] - width
    for top, left in ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)):
        crop = square[:, :, top : top + height, left : left + width]
        yield crop
        yield crop.flip(axis=3)


class Evaluator:
    """Loss and accuracy of weights of the plain network, over the images of a record file.

    An image is seen as its centre crop or, with 10 ``crops``, as the network of 2012 was tested:
    the probabilities are averaged over ten crops of the square in the middle of the resized image.
    """

    def __init__(self, symbol, contexts, args, found: Records, crops: int = 1):
        self._symbol, self._contexts, self._args, self._found = symbol, contexts, args, found
        self._crops = crops

    def __call__(
        self, arg_params: dict, aux_params: dict, scores: Optional[Scores] = None
    ) -> Scores:
        """Score these weights on each image exactly once.

        Args:
            scores: what to add them to; else new ones.
        """
        batch_size = min(self._args.batch_size, len(self._found))
        shape = (batch_size, *self._args.image_shape)
        contexts = self._contexts[:batch_size]  # each needs an image
        module = classifier.bind(self._symbol, arg_params, aux_params, shape, contexts)
        scores = scores or Scores(self._args.top_k)
        for batch, count in self._batches(batch_size):
            views = self._views(batch.data[0])
            probabilities = sum(_run(module, view, batch.label) for view in views) / self._crops
            scores.update(probabilities[:count], batch.label[0].asnumpy()[:count])
        return scores

    def _batches(self, batch_size):
        args = self._args
        if self._crops > 1:
            square = (args.image_shape[0], args.resize, args.resize)
            args = argparse.Namespace(**{**vars(args), "image_shape": square})
        return pipeline.evaluation_batches(args, self._found.path, len(self._found), batch_size)

    def _views(self, images):
        return [images] if self._crops == 1 else ten_crops(images, *self._args.image_shape[1:])


def _run(module, images, labels):
    module.forward(mx.io.DataBatch([images], labels), is_train=False)
    return module.get_outputs()[0].asnumpy()
