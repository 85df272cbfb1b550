"""How benchmarks measure in processes of their own, and where they leave their figures.

That is benchmarks/results/NAME.json, with the machine beside.
"""

import json
import os
import platform
import subprocess
import sys

import cv2
import numpy as np

from common.cli import UserError
from common.io import cpus
from common.io.files import atomic

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "results")


def run_worker(script: str, *arguments, python: str = sys.executable) -> dict:
    """The figures that benchmarks/``script`` prints as JSON in its last line.

    It gets as many OpenMP threads as there are cores.

    Raises:
        UserError: it failed; with the last line it said.
    """
    command = [python, os.path.join(HERE, script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(HERE)}
    environment["OMP_NUM_THREADS"] = str(cpus.available())
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise UserError(f"{' '.join(command)}: exit code {done.returncode} {' '.join(last)}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def save(name: str, **figures) -> str:
    """Write ``figures``, the processor and the versions; return the file's path."""
    machine = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "cpu": cpus.model(),
        "cores": cpus.available(),
    }
    os.makedirs(FOLDER, exist_ok=True)
    path = os.path.join(FOLDER, f"{name}.json")
    with atomic(path) as temporary, open(temporary, "w") as file:
        json.dump({"machine": machine, **figures}, file, indent=1)
    return path
