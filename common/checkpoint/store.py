"""Checkpoints: the files ``mx.model.load_checkpoint`` reads, and all that training needs to resume.

``PREFIX-symbol.json``
    the plain graph, or quantize.py's int8 form of it;
``PREFIX-NNNN.params``
    weights after epoch NNNN;
``PREFIX-NNNN-optimizer.params``
    the optimizer's state of each weight, such as ``fc1_weight:0``, in the same format;
``PREFIX-NNNN.json``
    the record: checksums of the other files and of itself, the position, arguments, versions;
``PREFIX-config.json``
    the image preparation and class names that go with the weights (common/checkpoint/config.py).

Each is written under another name, flushed and renamed, the record last: where it is whole and its
checksums fit, the set is whole. ``PREFIX-partial-UUUU...`` is a set of its own, after UUUU batches:
the newest state between two epochs' checkpoints. Nothing is a pickle, so that loading runs no code.
"""

import argparse
import contextlib
import os
import re
import struct
from typing import List, Optional, Sequence, Tuple

from common.cli import UserError
from common.io.files import TEMPORARY, atomic, delete, read_json, save_json, sha256, write_json
from common.runtime.mxnet import mx

from .arrays import as_float32, check_arrays, save_arrays
from .config import check_prefix, config_path, load_config, versions
from .fit import check_graph, check_weights

_FORMAT = 1


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which checkpoint to load."""
    parser.add_argument("--model-prefix", required=True, help="where train_imagenet.py saved it")
    parser.add_argument("--load-epoch", type=int, required=True, help="which of its checkpoints")


def params_path(prefix: str, epoch: int) -> str:
    """Where the weights after ``epoch`` epochs are."""
    return f"{prefix}-{epoch:04d}.params"


def record_path(prefix: str, epoch: int) -> str:
    """Where the record of the checkpoint after ``epoch`` epochs is."""
    return f"{prefix}-{epoch:04d}.json"


def partial(prefix: str) -> str:
    """The prefix of the checkpoints that are numbered by batches."""
    return f"{prefix}-partial"


def _paths(prefix, number):
    """Role -> path of the files that a record vouches for."""
    return {  # renamed from the last to the first: weights never appear beside another's symbol
        "params": params_path(prefix, number),
        "optimizer": f"{prefix}-{number:04d}-optimizer.params",
        "symbol": f"{prefix}-symbol.json",
    }


def remove_left_over(prefix: str) -> None:
    """Delete what a run that was killed while it saved has left: temporary files, half a set."""
    for name in (prefix, partial(prefix)):
        for number in _unfinished(name):
            delete(*_set_paths(name, number))
        for match in _matches(name, r"-(\d{4,}(-optimizer)?|symbol|config)\.\w+" + TEMPORARY):
            os.unlink(os.path.join(os.path.dirname(prefix), match[0]))


def _unfinished(prefix):
    """The numbers of the sets that a kill cut off: their records still have a temporary name."""
    found = {int(match[1]) for match in _matches(prefix, r"-(\d{4,})\.json" + TEMPORARY)}
    return {number for number in found if not os.path.exists(record_path(prefix, number))}


def numbers(prefix: str) -> List[int]:
    """The epochs whose weights are at ``prefix``, in order."""
    return sorted(int(match[1]) for match in _matches(prefix, r"-(\d{4,})\.params"))


def _matches(prefix, pattern):
    """The matches of ``pattern`` with what follows ``prefix`` in its folder's file names."""
    whole = re.compile(re.escape(os.path.basename(prefix)) + pattern)
    folder = os.path.dirname(os.path.abspath(prefix))
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [match for match in map(whole.fullmatch, names) if match]


def check_free(prefix: str, overwrite: bool, flag: str = "--model-prefix", after: int = -1) -> None:
    """Raise UserError if saving at ``prefix`` would lose an earlier run's checkpoints.

    Args:
        overwrite: the user has agreed to lose them.
        flag: what the command line calls ``prefix``.
        after: checkpoints up to this epoch stay.
    """
    there = [
        params_path(name, number)
        for name, last in ((prefix, after), (partial(prefix), -1))
        for number in numbers(name)
        if number > last and number not in _unfinished(name)
    ]
    if overwrite or not there:
        return
    remedy = "choose another prefix, or pass --overwrite to lose it"
    if flag == "--model-prefix" and newest(prefix)[0]:
        remedy = "--resume continues it, " + remedy
    raise UserError(f"{flag} {prefix}: {there[-1]} exists from an earlier run; {remedy}")


def remove(prefix: str, keep: Sequence[int] = ()) -> None:
    """Delete the checkpoints at ``prefix``, save for those with the numbers ``keep``."""
    for number in numbers(prefix):
        if number not in keep:
            delete(*_set_paths(prefix, number))
    if not keep:
        delete(f"{prefix}-symbol.json")


def _set_paths(prefix, number):
    """The files of one number, the record first: a set that has none is never taken for whole."""
    paths = _paths(prefix, number)
    return record_path(prefix, number), paths["optimizer"], paths["params"]


def save(
    prefix: str,
    number: int,
    symbol: mx.sym.Symbol,
    arg_params: dict,
    aux_params: dict,
    optimizer: Optional[dict] = None,
    config: Optional[dict] = None,
    **record: object,
) -> str:
    """Write a checkpoint, and return the name of its weights' file.

    All of it is there afterwards; or it cannot be written (UserError), and nothing has changed.

    Args:
        number: epochs trained, or batches where ``prefix`` is a :func:`partial` one.
        optimizer: name -> array, its state; None or empty: there is none to keep.
        config: :func:`config_entries`, to be written with the weights; None leaves the config.
        record: what the record holds besides the checksums; values that JSON has.
    """
    paths = _paths(prefix, number)
    old = _set_paths(prefix, number)
    if not optimizer:
        del paths["optimizer"]
    configs = [] if config is None else [config_path(prefix)]
    targets = [record_path(prefix, number), *paths.values(), *configs]
    with atomic(*targets, instead_of=old) as (record_file, *files):
        for path in files[len(paths) :]:
            write_json(path, config)
        files = dict(zip(paths, files))
        _write_files(files, symbol, arg_params, aux_params, optimizer)
        checksums = {role: sha256(path) for role, path in files.items()}
        entries = {**record, "files": checksums, "format": _FORMAT, "versions": versions()}
        write_json(record_file, entries)
    return paths["params"]


def _write_files(files, symbol, arg_params, aux_params, optimizer):
    with open(files["symbol"], "w") as file:  # symbol.save is silent about a full disk
        file.write(symbol.tojson())
    weights = {f"arg:{name}": value for name, value in arg_params.items()}
    weights.update({f"aux:{name}": value for name, value in aux_params.items()})
    save_arrays(files["params"], weights)
    if optimizer:
        save_arrays(files["optimizer"], optimizer)


def update_record(prefix: str, number: int, **changes) -> None:
    """Change entries of a checkpoint's record."""
    save_json(record_path(prefix, number), {**load_record(prefix, number), **changes})


def load_record(prefix: str, number: int) -> dict:
    """The record of a checkpoint; UserError if it is missing or damaged."""
    path = record_path(prefix, number)
    try:
        record = read_json(path, "take another checkpoint")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; without it a checkpoint holds weights only")
    if record.get("format") != _FORMAT:
        newer = record.get("versions", {}).get("alexnet-mxnet", "a newer version")
        raise UserError(f"{path}: was written by {newer} of this program; update this one")
    return record


def verify(prefix: str, number: int, *roles: str) -> None:
    """Compare files of a checkpoint, all by default, with the checksums in its record.

    UserError if one of them, or the record, is missing or damaged.
    """
    checksums = load_record(prefix, number)["files"]
    paths = _paths(prefix, number)
    for role in roles or checksums:
        if not os.path.isfile(paths[role]):
            raise UserError(f"{paths[role]}: is missing; take another checkpoint")
        if sha256(paths[role]) != checksums.get(role):
            raise UserError(
                f"{paths[role]}: is damaged (its checksum is not the one in"
                f" {record_path(prefix, number)}); take another checkpoint"
            )


def newest(prefix: str) -> Tuple[Optional[Tuple[str, int]], List[str]]:
    """Prefix and number of the newest whole checkpoint at ``prefix``, None without one; and a line
    about each newer one that is damaged.
    """
    saved = [(name, number) for name in (prefix, partial(prefix)) for number in numbers(name)]
    damaged, whole = [], []
    for name, number in saved:
        if not os.path.exists(record_path(name, number)):
            continue  # a kill between two renames leaves it so
        try:
            record = load_record(name, number)
            if "batches" in record:  # others are of other scripts, such as quantize.py
                whole.append((record["batches"], name, number))
        except UserError as error:
            damaged.append(str(error))
    for _, name, number in sorted(whole, reverse=True):
        try:
            verify(name, number)
            return (name, number), damaged
        except UserError as error:
            damaged.append(str(error))
    return None, damaged


def load(prefix: str, number: int, verified: bool = False) -> Tuple[mx.sym.Symbol, dict, dict]:
    """Like ``mx.model.load_checkpoint``, with checks: (symbol, arg_params, aux_params).

    Where the checkpoint has a record, its checksums are compared first, unless it is ``verified``
    already. UserError if a file is missing or damaged, or the weights do not fit the graph.
    """
    for path in (f"{prefix}-symbol.json", params_path(prefix, number)):
        if not os.path.isfile(path):
            check_prefix(prefix)
            raise UserError(f"{path}: no such checkpoint; check --model-prefix and --load-epoch")
    if not verified and os.path.exists(record_path(prefix, number)):
        verify(prefix, number, "symbol", "params")
    try:
        check_arrays(params_path(prefix, number))
        symbol, *weights = mx.model.load_checkpoint(prefix, number)
        check_graph(symbol)
    except (mx.base.MXNetError, ValueError, LookupError, struct.error) as error:
        if "is not registered" in str(error):
            raise UserError(
                f"{prefix}-symbol.json: has an operator that this MXNet lacks; int8 checkpoints"
                " need a build with MKL-DNN"
            )
        raise UserError(f"{prefix}: the checkpoint of epoch {number} is damaged; take another one")
    both, shape = {**weights[0], **weights[1]}, None
    with contextlib.suppress(UserError, KeyError, TypeError):  # damage is told where it is needed
        shape = load_config(prefix)["args"]["image_shape"]
    check_weights(params_path(prefix, number), symbol, both, shape)
    return (symbol, *map(as_float32, weights))


def load_optimizer(prefix: str, number: int) -> dict:
    """Name -> array, the optimizer's state; empty where it has none."""
    path = _paths(prefix, number)["optimizer"]
    return mx.nd.load(path) if "optimizer" in load_record(prefix, number)["files"] else {}
