"""The gradients of a batch, computed in parts if all of it at once takes too much memory."""

from typing import Iterator, Optional, Sequence

import numpy as np

from common.runtime.mxnet import mx


class Gradients:
    """Forward and backward passes of a module over batches, in equal ``parts`` (--accumulate).

    With ``class_weights`` the gradient of each image is multiplied by the weight of its class.
    The sums are made here, not by ``grad_req="add"``, with which our C++ operators cannot be bound.
    """

    def __init__(
        self, module: mx.mod.Module, parts: int = 1, class_weights: Optional[Sequence[float]] = None
    ):
        self._module, self._parts = module, parts
        self._weights = None if class_weights is None else mx.nd.array(class_weights)
        lists = module._exec_group.grad_arrays  # by weight, then by device
        self._trained = [arrays for arrays in lists if arrays[0] is not None]
        self._arrays = [array for arrays in self._trained for array in arrays]
        self._sums = [array.copy() for array in self._arrays] if parts > 1 else []

    def compute(self, batch: mx.io.DataBatch) -> np.ndarray:
        """Leave the gradient of the whole batch in the module; the probabilities, (N, classes)."""
        probabilities = []
        for number, part in enumerate(self._split(batch)):
            self._module.forward_backward(part)
            probabilities.append(self._module.get_outputs()[0].asnumpy())
            self._add(number)
        return np.concatenate(probabilities)

    def are_finite(self) -> bool:
        """Whether no gradient is beyond its type's range."""
        # One call a device, and all of them before the first is waited for.
        finite = [mx.nd.multi_all_finite(*own, num_arrays=len(own)) for own in zip(*self._trained)]
        return all(one.asscalar() for one in finite)

    def _split(self, batch) -> Iterator[mx.io.DataBatch]:
        labels = batch.label
        if self._weights is not None:
            labels = [*labels, self._weights.take(labels[0])]
        size = len(labels[0]) // self._parts
        for start in range(0, self._parts * size, size):
            rows = slice(start, start + size)  # views: nothing is copied
            yield mx.io.DataBatch([a[rows] for a in batch.data], [a[rows] for a in labels])

    def _add(self, number):
        for total, array in zip(self._sums, self._arrays):
            if number == 0:
                array.copyto(total)
            elif number < self._parts - 1:
                total += array
            else:
                array += total
