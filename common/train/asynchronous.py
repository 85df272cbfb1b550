"""Workers that do not wait for each other within an epoch: MXNet's kvstore ``dist_async``.

The weights are the servers', and so is the optimizer with its state. A server applies each gradient
as it arrives, and the worker that sent it fetches the newest weights for its next batch.

MXNet's servers know arrays by number, and hand all that arrives to the optimizer. So the numbers
are given here, and :class:`Server` tells by them what an array is:

============  ========================================================================
numbers       arrays
============  ========================================================================
0 to n - 1    what each of n workers tells the others; what arrives takes its place
from n on     the weights; what arrives is a gradient
the others    the optimizer's state; the servers' optimizer changes it, workers read it
============  ========================================================================

Small arrays lie whole on a server, which MXNet chooses by their number modulo that of servers, and
larger ones in equal slices on all. So a weight's state is where the weight is if their numbers
differ by a multiple of the servers' number.
"""

import copy
import os
import time
import traceback
import zlib
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from common.runtime import native
from common.runtime.mxnet import mx

from .cluster import Cluster
from .module_state import optimizer_arrays

_WIDTH = 8  # values that a worker tells the others at most
_PAUSE = 0.05  # seconds between two looks at what the others tell

# On a server: the optimizer's state by number. It is the memory of the store itself, and outlives
# the optimizer, for which another one may be sent.
_STATES: Dict[int, mx.nd.NDArray] = {}


class Rate:
    """The learning rate of a push: a run's rate over the workers, whose pushes make one update."""

    def __init__(self, schedule: mx.lr_scheduler.LRScheduler, workers: int):
        self._schedule, self._workers = schedule, workers

    def __call__(self, pushes: int) -> float:
        """The rate of a push, counted from 1."""
        return self._schedule(-(-pushes // self._workers)) / self._workers


class Server(mx.optimizer.Optimizer):
    """What a server does with an array that arrives; MXNet takes it for an optimizer."""

    def __init__(
        self,
        optimizer: Optional[mx.optimizer.Optimizer] = None,
        states: Optional[Mapping[int, Sequence[int]]] = None,
    ):
        """``states``: the numbers of a weight's state, by the weight's number."""
        super().__init__()
        self._optimizer, self._numbers = optimizer, states or {}
        self._kept = {number for numbers in self._numbers.values() for number in numbers}
        self._made: Dict[int, Any] = {}

    def update(self, index: int, weight: mx.nd.NDArray, grad: mx.nd.NDArray, state: None) -> None:
        """Let ``grad`` have arrived at the number ``index``, where the server has ``weight``."""
        try:
            self._take(index, weight, grad)
            # MXNet answers, and frees what has arrived, once ``weight`` is written.
            mx.nd.waitall()
        except Exception:  # in a callback of C, where Python would only print it
            traceback.print_exc()
            os._exit(1)

    def _take(self, index, weight, grad):
        if index in self._numbers:
            if index not in self._made:
                self._made[index] = self._state(index, weight)
            self._optimizer.update(index, weight, grad, self._made[index])
        elif index in self._kept:
            _STATES[index] = weight
        else:
            grad.copyto(weight)

    def _state(self, index, weight):
        """The state of a weight, of the optimizer's form, in the store's memory."""
        if isinstance(self._optimizer, native.NativeSGD) and not native.load():
            self._optimizer.__class__ = mx.optimizer.SGD  # on this machine it cannot be built
        arrays = iter([_STATES[number] for number in self._numbers[index]])
        return _with(self._optimizer.create_state(index, weight), arrays)


def _with(state, arrays: Iterator[mx.nd.NDArray]):
    """``state`` with other arrays in place of its own."""
    if isinstance(state, (tuple, list)):
        return tuple(_with(part, arrays) for part in state)
    return None if state is None else next(arrays)


class AsynchronousCluster(Cluster):
    """All workers, seen from one of them; each is at a batch of its own.

    A worker tells the others, in a row, how often it has met them, which signal it has received and
    what it had to say at the last two meetings. More is not needed: to meet again, all must have
    met. A row may lie in slices on several servers, and then be read half old, half new; its
    checksum tells.
    """

    in_step = False

    def __init__(self, *settings: Any):
        super().__init__(*settings)
        self._row = np.zeros(2 + 2 * _WIDTH)
        self._told = np.zeros((self.share.size, self._row.size))  # by all
        self._rows = [mx.nd.zeros(64 * (self._row.size + 1)) for _ in self._told]
        self._all = list(range(self.share.size))
        self._weights: List[Tuple[int, int]] = []  # the index in a module of each that is trained,
        self._numbers: Dict[int, List[int]] = {}  # and its number -> the numbers of its state
        self._kept: Dict[int, mx.nd.NDArray] = {}  # the state in this worker's module
        self._kv.init(self._all, self._rows)
        self._send(Server())

    def _send(self, server):
        """Put ``server`` on all servers, in place of the one before."""
        if self.is_first:
            self._kv.set_optimizer(server)
        self._kv._barrier()

    def gather(self, values: Sequence[float]) -> np.ndarray:
        """As :meth:`Cluster.gather`; all that this worker has sent before has then arrived."""
        mx.nd.waitall()
        self._row[0] += 1
        start = 2 + _WIDTH * int(self._row[0] % 2)
        self._row[start : start + len(values)] = values
        self._tell()
        while True:
            self._kv.pull(self._all, out=self._rows)
            self._listen()
            if self._told[:, 0].min() >= self._row[0]:
                return self._told[:, start : start + len(values)].copy()
            self._pass_signal_on()
            time.sleep(_PAUSE)

    def _tell(self):
        row = np.append(self._row, zlib.crc32(self._row.tobytes()))
        self._kv.push(self.share.rank, mx.nd.array(self._bits(row)))

    def _listen(self):
        rows = self._values(np.stack([row.asnumpy() for row in self._rows]))
        for own, row in zip(self._told, rows):
            if zlib.crc32(row[:-1].tobytes()) == row[-1]:
                own[:] = row[:-1]

    def _pass_signal_on(self):
        number = self.signal()
        if number and not self._row[1]:
            self._row[1] = number
            self._tell()

    def agree(self, values: Sequence[float]) -> Tuple[int, np.ndarray]:
        """As :meth:`Cluster.agree`, of this worker alone, and of the signals it has heard of."""
        self._pass_signal_on()
        self._listen()
        return int(max(self._told[:, 1].max(), self._row[1])), np.array([values], np.float64)

    def start(self, module: mx.mod.Module) -> None:
        """Put the weights and the optimizer's state of a module on the servers."""
        group, servers = module._exec_group, int(os.environ["DMLC_NUM_SERVER"])
        first = self.share.size
        step = -(-(first + len(group.param_names)) // servers) * servers
        for index, arrays in enumerate(group.param_arrays):
            self._kv.init(first + index, arrays[0])
            self._kv.pull(first + index, out=arrays)
        for index, arrays in optimizer_arrays(module).items():
            number = first + index
            self._weights.append((index, number))
            self._numbers[number] = [number + step * (1 + i) for i in range(len(arrays))]
            self._kept.update(zip(self._numbers[number], arrays))
        for number, array in self._kept.items():
            self._kv.init(number, array)
        self.renew(module)
        if self.is_first:
            for number, array in self._kept.items():
                self._kv.push(number, array)  # shows the server where it has it
        self.gather([])

    def renew(self, module: mx.mod.Module) -> None:
        """Send the servers the module's optimizer as it is now. All must call it."""
        optimizer, workers = copy.copy(module._optimizer), self.share.size
        names = module._exec_group.param_names
        optimizer.idx2name = {number: names[index] for index, number in self._weights}
        # A worker's gradient is the mean over its part of the batch.
        optimizer.rescale_grad *= workers
        optimizer.lr_scheduler = Rate(optimizer.lr_scheduler, workers)
        optimizer.num_update *= workers
        optimizer.begin_num_update = optimizer.num_update
        optimizer._all_index_update_counts = {0: {}}
        optimizer._index_update_count = optimizer._all_index_update_counts[0]
        self._send(Server(optimizer, self._numbers))

    def update(self, module: mx.mod.Module) -> None:
        """Send the gradients in a module, and fetch the weights that the servers make of them."""
        group = module._exec_group
        for index, number in self._weights:  # the first layers are needed first
            self._kv.push(number, group.grad_arrays[index], priority=-index)
            self._kv.pull(number, out=group.param_arrays[index], priority=-index)
        self._kv.pull(self._all, out=self._rows)
        module._optimizer.num_update += 1

    def meet(self, values: Sequence[float], module: mx.mod.Module) -> np.ndarray:
        """As :meth:`Cluster.meet`: waits until all are here, then until each has the weights."""
        rows = self.gather(values)
        for index, number in self._weights:
            self._kv.pull(number, out=module._exec_group.param_arrays[index])
        if self.is_first:
            for number, array in self._kept.items():
                self._kv.pull(number, out=array)
        self.gather([])
        return rows
