"""Run a network over the images of a record file, each counted exactly once."""

import dataclasses
from typing import Iterator, List, Tuple

from common.cli import UserError
from common.input import pipeline
from common.input.preparation import Preparation
from common.input.share import Share
from common.records.scan import Records
from common.runtime.mxnet import mx

from . import network
from .scores import Scores


def check_crops(crops: int, preparation: Preparation) -> None:
    """Raise UserError if ten crops would be one: the resized image is no larger than the crop."""
    crop = min(preparation.image_shape[1:])
    if crops > 1 and (preparation.resize or crop) <= crop:
        raise UserError(
            f"--crops {crops}: needs a checkpoint trained with a --resize above its crop of"
            f" {crop} pixels; this one has {preparation.resize or 'none'}; leave the flag out"
        )


def ten_crops(square: mx.nd.NDArray, height: int, width: int) -> Iterator[mx.nd.NDArray]:
    """The corners and the centre of (N, C, S, S) pictures, and their mirror images: ten arrays
    (N, C, height, width).
    """
    down, right = square.shape[2] - height, square.shape[3] - width
    for top, left in ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)):
        crop = square[:, :, top : top + height, left : left + width]
        yield crop
        yield crop.flip(axis=3)


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Loss and accuracy of a network's weights over the images of a record file.

    With ``crops`` 1 the centre crop of each image is scored. With 10 the probabilities are averaged
    over ten crops of the central square of the resized image, as in 2012.
    """

    symbol: mx.sym.Symbol  # the plain network
    contexts: List[mx.Context]  # the devices; each batch is divided among them
    records: Records
    preparation: Preparation
    batch_size: int  # over all devices together
    threads: int  # that decode
    crops: int = 1
    dtype: str = "float32"  # one of network.DTYPES
    share: Share = Share()  # what this process scores, if there are several workers

    def evaluate(self, arg_params: dict, aux_params: dict, scores: Scores) -> Scores:
        """Add each image of the share exactly once to ``scores``, which is returned."""
        count = len(self.share.part(len(self.records)))
        if not count:
            return scores
        batch_size = min(self.batch_size, count)
        contexts = self.contexts[:batch_size]  # each needs an image
        shape = (batch_size, *self.shape)
        module = network.bind(self.symbol, arg_params, aux_params, shape, contexts, self.dtype)
        for batch, count in self.batches(batch_size):
            images, size = batch.data[0], self.preparation.image_shape[1:]
            views = ten_crops(images, *size) if self.crops > 1 else [images]
            said = sum(network.outputs(module, view).asnumpy() for view in views)
            scores.update(said[:count] / self.crops, batch.label[0].asnumpy()[:count])
        return scores

    @property
    def shape(self) -> Tuple[int, ...]:
        """Of what the network takes of an image."""
        return self.preparation.image_shape

    def batches(self, batch_size: int) -> Iterator[Tuple[mx.io.DataBatch, int]]:
        """Those of the share, each with the number of its images that count: the last is filled."""
        preparation = self.preparation
        if self.crops > 1:
            square = (preparation.channels, preparation.resize, preparation.resize)
            preparation = dataclasses.replace(preparation, image_shape=square)
        part = self.share.part(len(self.records)) if self.share.size > 1 else None
        return pipeline.evaluation_batches(
            self.records, preparation, batch_size, self.threads, part
        )
