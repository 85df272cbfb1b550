"""The workers of a distributed run, joined by MXNet's kvstore ``dist_*``.

Gradients are summed by the servers, and every worker updates its own copy of the weights: the
copies stay equal, and the optimizer's state is there for checkpoints as in one process. With
``dist_async`` it is otherwise: asynchronous.py.
"""

import argparse
import hashlib
import json
import os
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple

import numpy as np

from common.cli import UserError
from common.input.share import Share
from common.io.heartbeat import WORKER
from common.runtime.mxnet import mx

ASYNCHRONOUS = "dist_async"
DISTRIBUTED = ("dist_sync", "dist_device_sync", ASYNCHRONOUS)
_OF_ONE_PROCESS = (
    ("--draw", "balanced", "what it draws is not divided among them"),
    ("--data-backend", "dali", "what it reads is not divided among them"),
    ("--dtype", "float16", "their sums of gradients are not checked for overflow"),
)
_IN_STEP = (  # flags, and their values, with which workers wait for each other
    ("--deterministic", False, "gradients count as they arrive, so no run is like another"),
    ("--skip-nonfinite", 0, "the others have trained on when a worker's loss is not finite"),
    ("--save-minutes", None, "within an epoch no two workers are at the same batch"),
)


def check(args: argparse.Namespace) -> None:
    """Refuse what several workers cannot do, and a worker of no job. They do not meet yet."""
    store, launched = args.kv_store, os.environ.get("DMLC_ROLE") == "worker"
    if store not in DISTRIBUTED:
        if launched:
            raise UserError(f"--kv-store {store}: is of one process; give dist_sync")
        if args.gc_type != "none":
            raise UserError(f"--gc-type {args.gc_type}: needs --kv-store dist_sync or dist_async")
        return
    if not launched:
        raise UserError(f"--kv-store {store}: start it with launch.py -n N -- train_imagenet.py")
    workers = int(os.environ["DMLC_NUM_WORKER"])
    devices = len(args.gpus) if args.gpus else args.cpus
    if args.batch_size % workers or args.batch_size < workers * devices:
        raise UserError(
            f"--batch-size {args.batch_size}: is of all {workers} workers together; give a multiple"
            " of their number, with an image for each device"
        )
    for flag, value, why in _OF_ONE_PROCESS:
        if getattr(args, _name(flag)) == value:
            raise UserError(f"{flag} {value}: is not for several workers ({store}): {why}")
    if store == ASYNCHRONOUS:
        _check_asynchronous(args)


def _check_asynchronous(args):
    for flag, value, why in _IN_STEP:
        if getattr(args, _name(flag)) != value:
            raise UserError(f"{flag}: is not for --kv-store {ASYNCHRONOUS}: {why}; leave it out")
    if args.optimizer == "adadelta":
        raise UserError(
            f"--optimizer adadelta: is not for --kv-store {ASYNCHRONOUS}: its steps do not follow"
            " --lr, and would be as many times as long as there are workers; take another"
        )


def _name(flag):
    return flag[2:].replace("-", "_")


def check_network(symbol: mx.sym.Symbol, kv_store: str) -> None:
    """Raise UserError if each of several workers would have statistics of its own."""
    states = symbol.list_auxiliary_states()
    if states and kv_store in DISTRIBUTED:
        raise UserError(
            f"--network: batch norm, which has {states[0]}, is not for several workers (--kv-store"
            f" {kv_store}); each would have other averages"
        )


class Cluster:
    """All workers, seen from one of them.

    Attributes:
        share: which of them this one is.
        signal: what is asked, while this worker waits too, for the number of the signal that it has
            received, 0 for none.
        in_step: whether all train the same batch at the same time.
    """

    in_step = True

    def __init__(
        self,
        kv_store: Optional[str] = None,
        gc_threshold: Optional[float] = None,
        deterministic: bool = False,
    ):
        """Meet the others.

        Args:
            kv_store: one of DISTRIBUTED; None: this process is alone.
            gc_threshold: of 2-bit compression of gradients; None: they are sent as they are.
            deterministic: gradients are added in the order of the workers, not as they arrive.
        """
        self.share, self._kv, self._unit, self._widths = Share(), None, 1.0, set()
        self.signal: Callable[[], int] = lambda: 0
        self._in_order = False
        if kv_store is None:
            return
        self._kv = mx.kv.create(kv_store)
        self._wait_at_exit(False)  # one that fails would wait for the others for ever
        rank = int(os.environ.get(WORKER, self._kv.rank))
        self.share = Share(rank, self._kv.num_workers)
        self._in_order = deterministic and self.share.size > 2  # a + b is b + a
        if gc_threshold is not None:
            self._kv.set_gradient_compression({"type": "2bit", "threshold": gc_threshold})
            self._unit = gc_threshold

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "Cluster":
        """As the parsed flags say."""
        store = args.kv_store if args.kv_store in DISTRIBUTED else None
        threshold = None if args.gc_type == "none" else args.gc_threshold
        return cls(store, threshold, args.deterministic)

    @property
    def is_first(self) -> bool:
        """Whether this worker writes the checkpoints, and the log."""
        return self.share.rank == 0

    def gather(self, values: Sequence[float]) -> np.ndarray:
        """The values of all workers, exactly: (workers, values) float64. All must call it.

        What the servers do is to add float32 arrays, compressed perhaps: so each worker sends bits,
        in a row of its own. As 0 and the threshold, they pass 2-bit compression unharmed.
        """
        own = np.array(values, np.float64)
        if self._kv is None:
            return own[None]
        bits = np.zeros((self.share.size, own.size * 64), np.float32)
        bits[self.share.rank] = self._bits(own)
        key = f"gather {own.size}"
        if own.size not in self._widths:
            self._widths.add(own.size)
            self._kv.init(key, mx.nd.zeros(bits.shape))
        array = mx.nd.array(bits)
        self._kv.push(key, array)
        self._kv.pull(key, out=array)
        return self._values(array.asnumpy())

    def _bits(self, values):
        return np.unpackbits(values.view(np.uint8)) * np.float32(self._unit)

    def _values(self, bits):
        return np.packbits(bits > self._unit / 2, axis=1).view(np.float64)

    def agree(self, values: Sequence[float]) -> Tuple[int, np.ndarray]:
        """After a batch: the signal that ends the run here, 0 for none, and all workers' values.

        The values, (workers, values), are of those whose gradients make one update with this one's.
        """
        rows = self.gather([self.signal(), *values])
        return int(rows[:, 0].max()), rows[:, 1:]

    def meet(self, values: Sequence[float], module: mx.mod.Module) -> np.ndarray:
        """After an epoch: the values, (workers, values), of all that have trained on their own.

        ``module`` then has the weights and the optimizer's state of the run.
        """
        return np.array([values], np.float64)

    def check_same(self, things: Mapping[str, Any]) -> None:
        """Make sure that all workers have the same of each thing. All must call it.

        ``things``: by what they are called, anything that JSON can hold. UserError on all workers.
        """
        texts = [json.dumps(thing, sort_keys=True, default=str) for thing in things.values()]
        digests = [hashlib.sha256(text.encode()).digest()[:6] for text in texts]
        all_of_them = self.gather([int.from_bytes(digest, "big") for digest in digests])
        for number, name in enumerate(things):
            for worker, row in enumerate(all_of_them):
                if row[number] != all_of_them[0][number]:
                    raise UserError(
                        f"worker {worker}: its {name} are not those of worker 0; give all the same"
                    )

    def start(self, module: mx.mod.Module) -> None:
        """Give the modules of all workers the weights of one of them."""
        group = module._exec_group
        for name, arrays in zip(group.param_names, group.param_arrays):
            if self._kv is not None:
                self._kv.init(name, arrays[0])
                self._kv.pull(name, out=arrays)
                if self._in_order:
                    for key in self._parts(name, arrays[:1]):
                        self._kv.init(key, arrays[0])

    def update(self, module: mx.mod.Module) -> None:
        """Update the weights in a module by the gradients in it, and those of all workers."""
        group = module._exec_group
        for index, (name, arrays) in enumerate(zip(group.param_names, group.grad_arrays)):
            if self._kv is None or arrays[0] is None:
                continue
            parts = self._parts(name, arrays)
            for key, part in parts.items():
                self._kv.push(key, part, priority=-index)  # the first layers are needed first
                self._kv.pull(key, out=part, priority=-index)
            if self._in_order:
                for array, *terms in zip(arrays, *parts.values()):
                    mx.nd.add_n(*terms, out=array)
        module.update()

    def renew(self, module: mx.mod.Module) -> None:
        """Take notice that the learning rate of the module's optimizer is another."""

    def _parts(self, name, arrays):
        """What to send for a gradient: by key, an array a device.

        For a fixed order each worker has a key, where the others add zeros. One array with a row
        for each would not do: MXNet counts a key's bytes in 31 bits.
        """
        if not self._in_order:
            return {name: arrays}
        return {
            f"{name} of {rank}": [
                a.copy() if rank == self.share.rank else mx.nd.zeros_like(a) for a in arrays
            ]
            for rank in range(self.share.size)
        }

    def leave(self) -> None:
        """End well: wait for the others; the servers and the scheduler then end, too."""
        if self._kv is not None:
            self._wait_at_exit(True)
            self._kv = None

    def _wait_at_exit(self, wait):
        mx.base.check_call(mx.base._LIB.MXKVStoreSetBarrierBeforeExit(self._kv.handle, int(wait)))
