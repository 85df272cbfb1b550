"""``PREFIX-config.json``: what goes with weights, so that nobody has to remember it as flags.

The image preparation, among the arguments of the training run, and the class names.
"""

import json
import platform
from typing import List, Optional

import numpy as np

from common.cli import UserError
from common.io import cpus
from common.io.files import atomic, checksum_of
from common.io.opencv import cv2
from common.runtime.mxnet import mx


def save_config(prefix: str, args: dict, classes: Optional[List[str]], **origin: dict) -> None:
    """Write ``PREFIX-config.json``: the run's arguments, the class names, the versions.

    ``origin`` is added as it is: what was done to the network after its training.
    """
    config = {"args": args, "classes": classes, **origin, "versions": versions()}
    config["sha256"] = checksum_of(config)
    with atomic(f"{prefix}-config.json") as temporary, open(temporary, "w") as file:
        json.dump(config, file, indent=1)
        file.write("\n")


def versions() -> dict:
    """What a result depends on beside its inputs: versions of what computed it, and the threads."""
    return {
        "python": platform.python_version(),
        "mxnet": mx.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "threads": cpus.openmp_threads(),  # results differ in the last bits
    }


def load_config(prefix: str) -> dict:
    """Read ``PREFIX-config.json``.

    Raises:
        UserError: it is missing, damaged, or not what :func:`save_config` wrote.
    """
    path = f"{prefix}-config.json"
    try:
        with open(path) as file:
            config = json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: not found; train_imagenet.py writes it beside the checkpoint")
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is not JSON; copy it anew from where the network was trained")
    checksum = isinstance(config, dict) and checksum_of(config)
    if not checksum or not {"args", "classes"} <= config.keys():
        raise UserError(f"{path}: lacks args or classes; copy it anew from where it was trained")
    if config.pop("sha256", checksum) != checksum:
        raise UserError(
            f"{path}: is damaged (its checksum is wrong); copy it anew, or delete its entry sha256"
            " if it was changed on purpose"
        )
    return config
