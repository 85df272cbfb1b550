"""Loss and accuracy of probabilities, with confidence intervals."""

import math
from typing import Optional, Sequence, Tuple

import numpy as np

from common.cli import UserError


def resolve_top_k(top_k: Optional[int], num_classes: int) -> int:
    """The k of top-k accuracy: --top-k, else 5, or less where there are few classes.

    UserError if ``top_k`` is not below the number of classes, so that it would always be 100%.
    """
    if top_k is None:
        return max(1, min(5, num_classes - 1))
    if top_k >= num_classes:
        raise UserError(f"--top-k {top_k}: there are only {num_classes} classes")
    return top_k


def wilson(right: int, count: int) -> Tuple[float, float]:
    """Wilson's 95% interval of a share that was measured as ``right`` of ``count``."""
    z2 = 1.959964**2
    centre = right + z2 / 2
    half = math.sqrt(z2 * (right * (count - right) / count + z2 / 4))
    return (centre - half) / (count + z2), (centre + half) / (count + z2)


class Scores:
    """Running cross-entropy, top-1 and top-k accuracy.

    A class ranks before the true one if its probability is equal or higher. So a network that gives
    every class the same probability scores 0, whatever the order of the classes.
    """

    def __init__(self, top_k: int = 5):
        self.top_k = top_k
        self.count = 0
        self._loss = 0.0
        self._hits = np.zeros(2)

    def state(self) -> list:
        """The sums so far, exactly, as JSON has them; :meth:`restore` takes them."""
        return [self.count, self._loss, *self._hits.tolist()]

    def restore(self, state: Sequence[float]) -> None:
        """Go on from another's :meth:`state`."""
        self.count, self._loss = int(state[0]), float(state[1])
        self._hits = np.array(state[2:], float)

    def add(self, state: Sequence[float]) -> None:
        """Add the images of another's :meth:`state`."""
        self.count += int(state[0])
        self._loss += float(state[1])
        self._hits += state[2:]

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

    def figures(self) -> dict:
        """Loss and accuracies by their names, as logs show them."""
        top1, topk = self._hits / max(self.count, 1)
        return {"loss": self.loss, "top-1": top1, f"top-{self.top_k}": topk}

    def right(self) -> dict:
        """How many images the accuracies count, by the same names."""
        return dict(zip(("top-1", f"top-{self.top_k}"), self._hits.astype(int).tolist()))

    def intervals(self) -> dict:
        """The 95% intervals of the accuracies, (low, high), by the same names."""
        return {name: wilson(right, self.count) for name, right in self.right().items()}
