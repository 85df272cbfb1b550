"""--cache-features: what frozen layers make of the images is computed once, not in each epoch.

The network is cut behind the layers that only frozen weights precede, before dropout. The part
before the cut runs, as in inference, on VIEWS augmented views of each training image and once on
each validation image. What it makes of them stays in memory, and the tail behind the cut is trained
on that. Epoch n sees the n-th view of each image in the order in which they were read; after VIEWS
epochs the views come again, each time in a new order.
"""

import dataclasses
import functools
import itertools
import time
from typing import Callable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from common.cli import UserError
from common.evaluate import network
from common.evaluate.evaluator import Evaluator
from common.graph.graph import Graph, Node, Output
from common.input import pipeline
from common.input.training_data import TrainingData
from common.io.limits import available_memory
from common.io.log import Progress, RunLog
from common.runtime.mxnet import mx

_GIB = 2**30


def cut(symbol: mx.sym.Symbol, frozen: Sequence[str]) -> Tuple[str, mx.sym.Symbol]:
    """The last layer that training does not change, and the tail, whose ``data`` is its output.

    UserError if there is no one such layer. ``frozen``: the weights that are not trained.
    """
    graph = Graph(symbol)
    fixed = {"data", *frozen, *symbol.list_auxiliary_states()}
    known = set()  # nodes that make the same of an image all along
    for node in graph.nodes:
        if node.is_variable:
            same = node.name in fixed
        else:
            same = all(one.node in known for one in node.inputs)
        if same:
            known.add(node)
    read = [one for node in graph.nodes if node not in known for one in node.inputs]
    features = {
        (one.node, one.index)
        for one in read
        if one.node in known and (one.node.name == "data" or not one.node.is_variable)
    }
    last, index = features.pop() if len(features) == 1 else (Node("null", "data"), 0)
    while last.op == "Dropout":
        last = last.inputs[0].node
    if last.is_variable or index:
        raise UserError(
            "--cache-features: the frozen layers are not all that comes before one layer; freeze"
            " those from the first on, such as --freeze conv,fc1,fc2"
        )
    graph.replace(last, Output(Node("null", "data")))
    return last.name, graph.symbol()


class Part(NamedTuple):
    """What a run's module trains: the network, or with --cache-features the tail behind the cut."""

    symbol: mx.sym.Symbol  # its ``data`` are images, or features (N, ...)
    shape: Tuple[int, ...]  # of an image, or of its features
    batches: Callable[[int], Iterator[mx.io.DataBatch]]  # from that number on, without end
    evaluator: Optional[Evaluator]  # scores its weights on the validation images; None without
    frozen: Tuple[dict, dict] = ({}, {})  # (arg_params, aux_params) in front of the cut


def cached(
    symbol: mx.sym.Symbol,
    weights: Mapping[str, mx.nd.NDArray],
    frozen: Sequence[str],
    contexts: List[mx.Context],
    data: TrainingData,
    views: int,
    validation: Optional[Evaluator],
) -> Part:
    """Read all images and run the frozen part; UserError if its features exceed the memory.

    Args:
        symbol: the plain network.
        weights: all frozen ones, auxiliary states among them.
        frozen: names of the weights that are not trained.
        data: its batches are float32.
        views: augmented views of each training image.
        validation: what would score the whole network.
    """
    layer, tail = cut(symbol, frozen)
    part, _, _ = network.up_to((symbol, {}, {}), layer)
    names = part.list_arguments(), part.list_auxiliary_states()
    params = [{n: weights[n] for n in group if n != "data"} for group in names]
    shape = part.infer_shape(data=(1, *data.preparation.image_shape))[1][0][1:]
    count, held_out = views * data.images, len(validation.records) if validation else 0
    _check_memory(views, count + held_out, shape)

    make = functools.partial(_features, (part, *params), contexts, shape)
    images = pipeline.training_iterator(data, contexts[0])
    taken = pipeline.take(images, data.name, -(-count // data.batch_shape[0]))
    kept = make(f"{layer} of {views} views", taken, count)
    images.stop()
    if validation:
        taken = (batch for batch, _ in validation.batches(min(validation.batch_size, held_out)))
        features = make(f"{layer} of validation", taken, held_out)
        validation = TailEvaluator(**{**vars(validation), "symbol": tail}, kept=features)
    batches = functools.partial(_batches, kept, data, views)
    return Part(tail, shape, batches, validation, (params[0], params[1]))


def _batches(kept, data, views, first):
    """Those of the run from batch ``first`` on, without end."""
    size = data.batch_shape[0]
    rows = _rows(data, views, first * size)
    while True:
        yield _batch(*kept, list(itertools.islice(rows, size)))


def _rows(data, views, first):
    """Which rows of the features the run sees, from its image ``first`` on, without end."""
    start, seen = divmod(first, data.images)
    for epoch in itertools.count(start):
        order = np.arange(data.images)
        if epoch >= views:
            np.random.RandomState(data.augmentation.epoch_seed(epoch)).shuffle(order)
        yield from epoch % views * data.images + order[seen:]
        seen = 0


@dataclasses.dataclass(frozen=True)
class TailEvaluator(Evaluator):
    """Scores weights of the tail ``symbol`` over the features of ``records``."""

    kept: Tuple[np.ndarray, ...] = ()  # features (N, ...), in order, and labels (N,)

    @property
    def shape(self) -> Tuple[int, ...]:
        """Of an image's features."""
        return self.kept[0].shape[1:]

    def batches(self, batch_size: int) -> Iterator[Tuple[mx.io.DataBatch, int]]:
        """Of features, as :class:`Evaluator` has them of images."""
        total = len(self.records)
        for start in range(0, total, batch_size):
            rows = np.arange(start, start + batch_size) % total  # the last batch is filled up
            yield _batch(*self.kept, rows), min(batch_size, total - start)


def _features(part, contexts, shape, title, batches, total):
    """What the frozen part makes of the first ``total`` images of ``batches``, and their labels."""
    features, labels = np.empty((total, *shape), np.float32), np.empty(total, np.float32)
    module, at, log, start = None, 0, RunLog(), time.monotonic()
    with Progress(log, title, total, period=20) as progress:
        for batch in batches:
            images = batch.data[0]
            module = module or network.bind(*part, images.shape, contexts[: len(images)])
            made = network.outputs(module, images).asnumpy()[: total - at]
            rows = slice(at, at + len(made))
            features[rows], labels[rows] = made, batch.label[0].asnumpy()[: len(made)]
            progress.update(len(made))
            at = rows.stop
    seconds, size = time.monotonic() - start, features.nbytes / _GIB
    log.say(f"{title}: {total} in {seconds:.1f} s, {size:.2f} GiB of memory")
    return features, labels


def _batch(features, labels, rows):
    return mx.io.DataBatch([mx.nd.array(features[rows])], [mx.nd.array(labels[rows])], pad=0)


def _check_memory(views, count, shape):
    needed, free = 4 * count * int(np.prod(shape)), available_memory()
    if free is not None and needed > free:
        numbers = "x".join(map(str, shape))
        raise UserError(
            f"--cache-features {views}: {count} views of {numbers} numbers take"
            f" {needed / _GIB:.1f} GiB of memory, and {free / _GIB:.1f} are free; take fewer views,"
            " or leave it out"
        )
