"""MXNet's momentum SGD with its update done in one pass by our operator: the same numbers."""

import mxnet as mx


@mx.optimizer.register
class NativeSGD(mx.optimizer.SGD):
    """``mx.optimizer.SGD`` for float32 weights on the CPU; needs :func:`common.native.load`.

    MXNet's own groups the updates of several weights into one operator, whose threads share
    the work badly: it takes three times as long as the memory's speed allows.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.aggregate_num = 0  # one weight a call

    def update(self, index, weight, grad, state):
        """Change ``weight`` and its momentum ``state`` in place."""
        if state is None:  # no momentum: nothing to fuse
            super().update(index, weight, grad, state)
            return
        self._update_count(index)
        mx.nd._internal._alexnet_sgd_mom(
            weight,
            grad,
            state,
            lr=self._get_lr(index),
            wd=self._get_wd(index),
            momentum=self.momentum,
            rescale_grad=self.rescale_grad,
            clip_gradient=-1 if self.clip_gradient is None else self.clip_gradient,
        )

    update_multi_precision = update
