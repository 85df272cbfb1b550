"""Checkpoints: the files ``mx.model.load_checkpoint`` reads, and how the network was trained.

``PREFIX-symbol.json`` (the plain graph, or quantize.py's int8 form of it), ``PREFIX-NNNN.params``
(weights after epoch NNNN) and ``PREFIX-config.json``: the image preparation and class names that go
with the weights, so that nobody has to remember them as flags.
"""

import glob
import json
import os
import platform
from typing import List, Optional

import cv2
import mxnet as mx
import numpy as np

from common.cli import UserError
from common.files import atomic


def add_args(parser) -> None:
    """Add the flags that say which checkpoint to load."""
    parser.add_argument("--model-prefix", required=True, help="where train_imagenet.py saved it")
    parser.add_argument("--load-epoch", type=int, required=True, help="which of its checkpoints")


def params_path(prefix: str, epoch: int) -> str:
    """Where the weights after ``epoch`` epochs are."""
    return f"{prefix}-{epoch:04d}.params"


def prepare(prefix: str, overwrite: bool, flag: str = "--model-prefix") -> None:
    """Make the folder of ``prefix``, and make sure no earlier run's checkpoints are in the way.

    Args:
        prefix: where checkpoints will be saved.
        overwrite: delete those that are there.
        flag: what the command line calls ``prefix``.

    Raises:
        UserError: checkpoints are there and ``overwrite`` is false.
    """
    os.makedirs(os.path.dirname(os.path.abspath(prefix)), exist_ok=True)
    earlier = sorted(glob.glob(f"{glob.escape(prefix)}-[0-9][0-9][0-9][0-9].params"))
    if earlier and not overwrite:
        raise UserError(
            f"{flag} {prefix}: {earlier[-1]} is there from an earlier run; choose another"
            " prefix, or pass --overwrite to lose it"
        )
    for path in earlier:
        os.unlink(path)


def save(prefix: str, epoch: int, symbol, arg_params: dict, aux_params: dict) -> str:
    """Write the weights after ``epoch`` epochs, and the graph beside them.

    Returns:
        The name of the weights' file.
    """
    path = params_path(prefix, epoch)
    weights = {f"arg:{name}": value for name, value in arg_params.items()}
    weights.update({f"aux:{name}": value for name, value in aux_params.items()})
    with atomic(path, f"{prefix}-symbol.json") as (params, graph):
        symbol.save(graph)
        mx.nd.save(params, weights)
    return path


def load(prefix: str, epoch: int):
    """``mx.model.load_checkpoint`` with a user's mistakes named: (symbol, arg_params, aux_params).

    Raises:
        UserError: a file is missing or damaged.
    """
    for path in (f"{prefix}-symbol.json", params_path(prefix, epoch)):
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such checkpoint; check --model-prefix and --load-epoch")
    try:
        return mx.model.load_checkpoint(prefix, epoch)
    except (mx.base.MXNetError, UnicodeDecodeError, ValueError) as error:
        if "is not registered" in str(error):
            raise UserError(
                f"{prefix}-symbol.json: has an operator that this MXNet lacks; int8 checkpoints"
                " need a build with MKL-DNN"
            )
        raise UserError(f"{prefix}: the checkpoint of epoch {epoch} is damaged; take another epoch")


def save_config(prefix: str, args: dict, classes: Optional[List[str]], **origin: dict) -> None:
    """Write ``PREFIX-config.json``: the run's arguments, the class names, the versions.

    ``origin`` is added as it is: what was done to the network after its training.
    """
    versions = {
        "python": platform.python_version(),
        "mxnet": mx.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }
    with atomic(f"{prefix}-config.json") as temporary, open(temporary, "w") as file:
        json.dump(
            {"args": args, "classes": classes, **origin, "versions": versions}, file, indent=1
        )
        file.write("\n")


def load_config(prefix: str) -> dict:
    """Read ``PREFIX-config.json``.

    Raises:
        UserError: it is missing or not what :func:`save_config` wrote.
    """
    path = f"{prefix}-config.json"
    try:
        with open(path) as file:
            config = json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; train_imagenet.py writes it beside the checkpoint")
    except ValueError:
        raise UserError(f"{path}: is not JSON; copy it anew from where the network was trained")
    if not isinstance(config, dict) or not {"args", "classes"} <= config.keys():
        raise UserError(f"{path}: lacks args or classes; copy it anew from where it was trained")
    return config
