"""Loss and accuracy over images, each counted exactly once."""

import numpy as np

from common import data, inference, records
from common.cli import UserError


def resolve_top_k(args) -> None:
    """Set ``args.top_k`` where the flag is not given: 5, or as many as tell something.

    Raises:
        UserError: --top-k is not below the number of classes, so it would always be 100%.
    """
    if args.top_k is None:
        args.top_k = max(1, min(5, args.num_classes - 1))
    elif args.top_k >= args.num_classes:
        raise UserError(f"--top-k {args.top_k}: there are only {args.num_classes} classes")


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


class Evaluator:
    """Loss and accuracy of weights of the plain network, over the centre crops of a record file."""

    def __init__(self, symbol, contexts, args, found: records.Records):
        self._symbol, self._contexts, self._args, self._found = symbol, contexts, args, found

    def __call__(self, arg_params: dict, aux_params: dict) -> Scores:
        """Score these weights on each image exactly once."""
        batch_size = min(self._args.batch_size, len(self._found))
        shape = (batch_size, *self._args.image_shape)
        contexts = self._contexts[:batch_size]  # each needs an image
        module = inference.bind(self._symbol, arg_params, aux_params, shape, contexts)
        scores = Scores(self._args.top_k)
        for batch, count in data.evaluation_batches(
            self._args, self._found.path, len(self._found), batch_size
        ):
            module.forward(batch, is_train=False)
            probabilities = module.get_outputs()[0].asnumpy()[:count]
            scores.update(probabilities, batch.label[0].asnumpy()[:count])
        return scores
