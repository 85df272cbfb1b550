"""``PREFIX-config.json``: what goes with weights, so that nobody has to remember it as flags.

It holds the training arguments, among them the preparation of images, and the class names.
"""

import platform
import re
from typing import List, Optional

import numpy as np

from common.cli import UserError
from common.io import cpus
from common.io.files import read_json, save_json
from common.io.opencv import cv2
from common.runtime.mxnet import mx
from common.version import VERSION

_OF_A_CHECKPOINT = re.compile(r"(.+?)-(?:0*(\d+)(?:-optimizer)?\.\w+|(?:symbol|config)\.json)")


def config_path(prefix: str) -> str:
    """Where the config of the checkpoints at ``prefix`` is."""
    return f"{prefix}-config.json"


def check_prefix(prefix: str) -> None:
    """Raise UserError if ``prefix`` is the name of one of a checkpoint's files."""
    found = _OF_A_CHECKPOINT.fullmatch(prefix)
    if found:
        number = f", and its number {found[2]}" if found[2] else ""
        raise UserError(f"{prefix}: is a checkpoint's file; its prefix is {found[1]}{number}")


def config_entries(args: dict, classes: Optional[List[str]], **origin: object) -> dict:
    """What a config holds: the training run's ``args``, the ``classes``' names in the order of the
    network's output, None if it has none, and ``origin``, what was done to it afterwards.
    """
    return {"args": args, "classes": classes, **origin, "versions": versions()}


def save_config(prefix: str, args: dict, classes: Optional[List[str]], **origin: object) -> None:
    """Write ``PREFIX-config.json`` with :func:`config_entries`."""
    save_json(config_path(prefix), config_entries(args, classes, **origin))


def versions() -> dict:
    """What a result depends on besides its inputs: the versions and the number of threads."""
    return {
        "alexnet-mxnet": VERSION,
        "python": platform.python_version(),
        "mxnet": mx.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "threads": cpus.openmp_threads(),  # results differ in the last bits
    }


def load_config(prefix: str) -> dict:
    """Read ``PREFIX-config.json``; UserError if it is missing, damaged, or not a config."""
    path = config_path(prefix)
    remedy = "copy it again, or delete its entry sha256 if it was changed on purpose"
    try:
        config = read_json(path, remedy, unsigned=True)  # the first versions wrote no checksum
    except FileNotFoundError:
        check_prefix(prefix)
        raise UserError(
            f"{path}: not found; training writes it. For a checkpoint of another program, python -m"
            " common.adopt makes it"
        )
    if not {"args", "classes"} <= config.keys():
        raise UserError(f"{path}: lacks args or classes; copy it again from where it was trained")
    return config
