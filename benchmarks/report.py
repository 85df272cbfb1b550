"""Where benchmarks leave their figures: benchmarks/results/NAME.json, with the machine beside."""

import json
import os
import platform

import cv2
import numpy as np

from common.compat import physical_cores
from common.files import atomic

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")


def save(name: str, **figures) -> str:
    """Write ``figures``, the processor and the versions; return the file's path."""
    machine = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "cpu": _cpu(),
        "cores": physical_cores(),
    }
    os.makedirs(FOLDER, exist_ok=True)
    path = os.path.join(FOLDER, f"{name}.json")
    with atomic(path) as temporary, open(temporary, "w") as file:
        json.dump({"machine": machine, **figures}, file, indent=1)
    return path


def _cpu():
    with open("/proc/cpuinfo") as file:
        models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return models[0] if models else platform.machine()
