"""Where a run is, and the checkpoint from which it continues.

All that is drawn at random depends on --seed and a position alone: the order of an epoch on its
number (common/input/pipeline.py), dropout on the number of the batch (:func:`seed_dropout`). So a
checkpoint that holds the position, the weights, the optimizer's state and the sums behind the
unfinished epoch's figures is enough to continue exactly.
"""

import argparse
import dataclasses
import hashlib
import json
import os
from typing import Dict, List, NamedTuple, Optional, Tuple

from common.checkpoint import store
from common.checkpoint.config import config_path, load_config
from common.cli import UserError
from common.input.training_data import TrainingData
from common.runtime.mxnet import mx

# Arguments that must stay the same: position and optimizer state mean nothing otherwise.
_FIXED = (
    "network", "num_classes", "image_shape", "optimizer", "batch_size", "accumulate", "draw",
    "lr_patience", "num_examples", "seed", "data_backend", "freeze", "top_k", "dtype",
    "activation", "dropout", "dropout_form", "normalization", "pooling",
)  # fmt: skip
# Flags that are younger than some checkpoints, and what those were trained with.
_YOUNG = {
    "accumulate": 1,
    "draw": "all",
    "gc_type": "none",
    "gc_threshold": 0.5,
    "model_parallel": False,
}
# Arguments whose change is not worth a mention.
_NOT_MENTIONED = ("resume", "load_epoch", "overwrite")


@dataclasses.dataclass
class State:
    """Where a run is; the record of a checkpoint holds these attributes."""

    batches: int = 0  # taken since the beginning
    skipped: int = 0  # of these, left out because their loss was not finite
    scores: Optional[list] = None  # the current epoch's sums
    seconds: float = 0.0  # the current epoch's, so far
    reported: bool = True  # whether the last complete epoch was validated and logged
    best: Optional[dict] = None  # epoch and top-1 of the best one that was saved
    validated: List[float] = dataclasses.field(default_factory=list)  # each epoch's top-1
    validation: Optional[dict] = None  # of the last one: images, and how many were right

    @property
    def updates(self) -> int:
        """How often the weights were updated."""
        return self.batches - self.skipped


class Resumed(NamedTuple):
    """A checkpoint to continue from."""

    place: Tuple[str, int]  # its prefix and number
    state: State
    arg_params: dict
    aux_params: dict
    optimizer: Dict[str, mx.nd.NDArray]
    changed: List[str]  # the arguments that differ from before, as text


def find(args: argparse.Namespace, data: TrainingData) -> Optional[Resumed]:
    """The checkpoint that --resume or --load-epoch asks for; None to start afresh. Only reads.

    UserError if it is damaged, of another network, other data or other classes, or checkpoints are
    in the way that --overwrite does not give up.
    """
    if not args.model_prefix:
        return None
    place = _place(args)
    resumed = place and _load(place, vars(args), data)
    if resumed:
        _check_classes(args.model_prefix, data)
    if resumed is None or args.load_epoch is not None:
        store.check_free(args.model_prefix, args.overwrite, after=_kept(args))
    return resumed


def clear(args: argparse.Namespace, resumed: Optional[Resumed]) -> None:
    """Delete the checkpoints that --overwrite or --load-epoch gives up."""
    if resumed is None or args.load_epoch is not None:
        last = _kept(args)
        kept = [number for number in store.numbers(args.model_prefix) if number <= last]
        store.remove(args.model_prefix, keep=kept)
        store.remove(store.partial(args.model_prefix))


def describe(args: argparse.Namespace, resumed: Optional[Resumed]) -> Optional[str]:
    """A line on where the run continues; None if there is nothing to say."""
    if resumed:
        changes = ", ".join(resumed.changed)
        path = store.params_path(*resumed.place)
        return f"resuming from {path}" + (f"; changed: {changes}" if changes else "")
    if args.resume:
        return f"no checkpoint at {args.model_prefix} yet: starting afresh"
    return None


def _kept(args):
    """The number up to which earlier checkpoints stay."""
    return -1 if args.load_epoch is None else args.load_epoch


def _place(args):
    if args.load_epoch is not None:
        store.verify(args.model_prefix, args.load_epoch)
        return args.model_prefix, args.load_epoch
    if not args.resume:
        return None
    place, damaged = store.newest(args.model_prefix)
    for line in damaged:
        print(f"not used: {line}")
    if place is None and damaged:
        raise UserError(
            f"--resume: no checkpoint at {args.model_prefix} is whole; --overwrite starts afresh"
        )
    return place


def _load(place, arguments, data):
    record = store.load_record(*place)
    now = json.loads(json.dumps(arguments))  # as it was when the record was written
    _check(record, store.record_path(*place), now, data)
    names = [field.name for field in dataclasses.fields(State)]
    state = State(**{name: record[name] for name in names if name in record})
    before = {**_YOUNG, **record["args"]}
    changed = [
        f"{name} {before.get(name)} -> {value}"
        for name, value in now.items()
        if name not in (*_NOT_MENTIONED, *_FIXED) and before.get(name) != value
    ]
    _, *weights = store.load(*place, verified=True)
    return Resumed(place, state, *weights, store.load_optimizer(*place), changed)


def _check(record, path, now, data):
    if "batches" not in record:
        raise UserError(f"{path}: is not of a training run, so there is nothing to resume")
    before = {**_YOUNG, **record["args"]}
    for name in _FIXED:
        if before.get(name) != now[name]:
            flag = name.replace("_", "-")
            said = ["its default" if v is None else v for v in (now[name], before.get(name))]
            raise UserError(
                f"--{flag} {said[0]}: {path} was trained with {said[1]}; give that,"
                " another --model-prefix, or --overwrite in place of --resume"
            )
    if record["data"] != data.fingerprint:
        raise UserError(
            f"{data.name}: {path} was trained on other records or with other --class-weights; give"
            " the same, another --model-prefix, or --overwrite in place of --resume"
        )
    patient = now["lr_schedule"] == "plateau" or now["stop_patience"] is not None
    if patient and before.get("data_val") != now["data_val"]:
        raise UserError(
            f"--data-val {now['data_val']}: {path} was validated on {before.get('data_val')}, and"
            " --lr-patience and --stop-patience compare all epochs; give that"
        )


def _check_classes(prefix, data):
    if data.records is None or not os.path.exists(config_path(prefix)):
        return
    before, now = load_config(prefix)["classes"], data.records.classes
    if before and now and before != now:
        raise UserError(
            f"{data.name}: its -classes.txt has other names than {config_path(prefix)}; restore it,"
            " or take another --model-prefix"
        )


def seed_dropout(seed: int, batch: int) -> None:
    """Make what MXNet draws for this batch depend on --seed and ``batch`` alone."""
    digest = hashlib.sha256(f"{seed} {batch}".encode()).digest()
    mx.random.seed(int.from_bytes(digest[:4], "little") >> 1)
