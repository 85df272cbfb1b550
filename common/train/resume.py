"""What training needs beside the weights to go on as if it had not been stopped.

All that is drawn at random depends on --seed and a position alone: the order of an epoch on its
number (common/input/pipeline.py), dropout on the number of the batch (:func:`seed_dropout`). So
the position,
the optimizer's state and the sums of the unfinished epoch's figures are all there is to keep.
"""

import hashlib
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from common.checkpoint import store
from common.cli import UserError
from common.runtime.mxnet import mx

# What a run cannot change on its way; position and optimizer state mean nothing otherwise.
_FIXED = (
    "network",
    "num_classes",
    "image_shape",
    "optimizer",
    "batch_size",
    "num_examples",
    "seed",
    "data_backend",
    "freeze",
    "top_k",
    "dtype",
)
# What the first line about a resumed run need not mention.
_NO_MATTER = ("resume", "load_epoch", "overwrite", "verbose")


class State:
    """Where a run is; its attributes are what the record of a checkpoint holds of it."""

    def __init__(self):
        self.batches = 0  # taken since the beginning
        self.skipped = 0  # of these, whose loss was not finite
        self.scores: Optional[list] = None  # the current epoch's sums
        self.seconds = 0.0  # the current epoch's, so far
        self.reported = True  # whether the last epoch was validated and logged
        self.best: Optional[dict] = None  # epoch and figures of the best one that was saved


class Resumed(NamedTuple):
    """A checkpoint to go on from."""

    place: Tuple[str, int]  # its prefix and number
    state: State
    arg_params: dict
    aux_params: dict
    optimizer: Dict[str, mx.nd.NDArray]
    changed: List[str]  # what flags say otherwise than before


def prepare(args, fingerprint: Optional[str]) -> Optional[Resumed]:
    """The checkpoint to go on from, as --resume or --load-epoch ask; None to begin anew.

    What it says goes to stdout. Checkpoints that --overwrite gives up are deleted.

    Args:
        fingerprint: of the training records; None for synthetic images.

    Raises:
        UserError: it is damaged, or of another network, data or the like, or checkpoints that
            nobody gives up are in the way.
    """
    if not args.model_prefix:
        return None
    resumed = _find(args, fingerprint)
    if resumed is None or args.load_epoch is not None:
        after = 0 if args.load_epoch is None else args.load_epoch
        store.check_free(args.model_prefix, args.overwrite, after=after)
        kept = [number for number in store.numbers(args.model_prefix) if number <= after]
        store.remove(args.model_prefix, keep=kept)
        store.remove(store.partial(args.model_prefix))
    if resumed:
        path = store.params_path(*resumed.place)
        changes = ", ".join(resumed.changed)
        print(f"going on from {path}" + (f"; changed: {changes}" if changes else ""))
    elif args.resume:
        print(f"no checkpoint at {args.model_prefix} yet: beginning anew")
    return resumed


def _find(args, fingerprint):
    if args.load_epoch is not None:
        place = args.model_prefix, args.load_epoch
        store.verify(*place)
    elif args.resume:
        place, damaged = store.newest(args.model_prefix)
        for line in damaged:
            print(f"not used: {line}")
        if place is None and damaged:
            raise UserError(
                f"--resume: no checkpoint at {args.model_prefix} is whole; --overwrite begins anew"
            )
    else:
        place = None
    if place is None:
        return None
    record = store.load_record(*place)
    _check(record, store.record_path(*place), args, fingerprint)
    state = State()
    vars(state).update((name, record[name]) for name in vars(state))
    before, now = record["args"], _as_json(vars(args))
    changed = [
        f"{name} {before.get(name)} -> {value}"
        for name, value in now.items()
        if name not in _NO_MATTER and before.get(name) != value
    ]
    _, *weights = store.load(*place, verified=True)
    return Resumed(place, state, *weights, store.load_optimizer(*place), changed)


def _check(record, path, args, fingerprint):
    if "batches" not in record:
        raise UserError(f"{path}: is not of a training run, so there is nothing to go on with")
    before, now = record["args"], _as_json(vars(args))
    for name in _FIXED:
        if before.get(name) != now[name]:
            flag = name.replace("_", "-")
            raise UserError(
                f"--{flag} {now[name]}: {path} was trained with {before.get(name)}; give that,"
                " another --model-prefix, or --overwrite in place of --resume"
            )
    if record["data"] != fingerprint:
        raise UserError(
            f"{args.data_train or '--benchmark 1'}: {path} was trained on other records; give the"
            " same, another --model-prefix, or --overwrite in place of --resume"
        )


def _as_json(arguments):
    return {key: list(v) if isinstance(v, tuple) else v for key, v in arguments.items()}


def seed_dropout(args, batch: int) -> None:
    """Let what MXNet draws for this batch depend on --seed and ``batch`` alone."""
    digest = hashlib.sha256(f"{args.seed} {batch}".encode()).digest()
    mx.random.seed(int.from_bytes(digest[:4], "little") >> 1)


def weights(module):
    """The parameters of a bound module, (arg_params, aux_params), equal to the last bit, float32.

    ``module.get_params()`` is the mean over the devices, which rounding makes another number. Of
    float16 weights it is the optimizer's float32 copies, once it has them.
    """
    group = module._exec_group
    pairs = ((group.param_names, group.param_arrays), (group.aux_names, group.aux_arrays))
    arg_params, aux_params = (
        {name: arrays[0].astype("float32").copyto(mx.cpu()) for name, arrays in zip(names, lists)}
        for names, lists in pairs
    )
    for index, name in _trained(module):
        kept = _updater(module).states.get(_keys(module, index, name)[0][0])
        if kept is not None and group.param_arrays[index][0].dtype == np.float16:
            # MXNet's SGD and NAG keep it last, its other optimizers first.
            last = isinstance(module._optimizer, (mx.optimizer.SGD, mx.optimizer.NAG))
            arg_params[name] = kept[-1 if last else 0].copyto(mx.cpu())
    return arg_params, aux_params


def optimizer_state(module) -> Dict[str, mx.nd.NDArray]:
    """``weight:n`` -> the n-th array that the optimizer keeps for a weight."""
    state = {}
    for index, name in _trained(module):
        key, _ = _keys(module, index, name)[0]
        for i, array in enumerate(_arrays(_updater(module).states.get(key))):
            state[f"{name}:{i}"] = array
    return state


def restore_optimizer(module, state: Dict[str, mx.nd.NDArray]) -> None:
    """Give the optimizer of ``module`` what :func:`optimizer_state` took from another's.

    The devices may be others, and other in number.

    Raises:
        UserError: it is not the state of this optimizer for these weights.
    """
    updater, optimizer, group = _updater(module), module._optimizer, module._exec_group
    missing, unused = [], set(state)
    for index, name in _trained(module):
        for key, device in _keys(module, index, name):
            kept = optimizer.create_state_multi_precision(key, group.param_arrays[index][device])
            for i, array in enumerate(_arrays(kept)):
                entry = f"{name}:{i}"
                if entry in state and state[entry].shape == array.shape:
                    array[:] = state[entry]
                    unused.discard(entry)
                else:
                    missing.append(entry)
            updater.states[key] = kept
            updater.states_synced[key] = False  # it moves to where the update happens
    if missing or unused:
        raise UserError(
            f"--optimizer, --mom: the checkpoint's optimizer state does not fit"
            f" ({[*missing, *sorted(unused)][0]}); give what it was trained with"
        )


def _arrays(kept):
    """What an optimizer keeps for a weight, as a flat list."""
    if isinstance(kept, (tuple, list)):
        return [array for part in kept for array in _arrays(part)]
    return [] if kept is None else [kept]


def _trained(module):
    """Index and name of each weight that the optimizer changes."""
    group = module._exec_group
    return [
        (index, name)
        for index, name in enumerate(group.param_names)
        if group.grad_arrays[index][0] is not None
    ]


def _updater(module):
    return module._kvstore._updater if module._update_on_kvstore else module._updater


def _keys(module, index, name):
    """The updater's keys for a weight, each with the device whose copy it updates."""
    if module._update_on_kvstore:
        return [(name, 0)]
    devices = len(module._context)
    return [(index * devices + device, device) for device in range(devices)]
