"""How benchmarks measure in processes of their own, and where they leave their figures.

That is benchmarks/results/CPU.json, a file for each kind of processor, which is committed:
``python -m docs.results`` writes docs/results.md and README's table from it.
"""

import datetime
import json
import os
import platform
import re
import subprocess
import sys

import cv2
import numpy as np

from common.cli import UserError
from common.io import cpus
from common.io.files import atomic

# The contestants that are no peers, in results' files and for readers.
OWN = {
    "ours": "this project",
    "int8": "this project, int8",
    "bf16": "this project, bf16",
    "stock": "stock MXNet",
}
HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "results")
# Instruction sets from the best, by the flag of /proc/cpuinfo that tells of each.
LEVELS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512, VNNI, bf16",
    "avx512_vnni": "AVX-512, VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}


def run_worker(
    script: str, *arguments, python: str = sys.executable, threads: int = cpus.available()
) -> dict:
    """The figures that benchmarks/``script`` prints as JSON in its last line.

    It gets ``threads`` OpenMP threads.

    Raises:
        UserError: it failed; with the last line it said.
    """
    return last_line([python, os.path.join(HERE, script), *map(str, arguments)], threads)


def last_line(command: list, threads: int = cpus.available()) -> dict:
    """The JSON object in the last line that ``command`` prints; None if it prints nothing.

    Raises:
        UserError: it failed; with the last line it said.
    """
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(HERE)}
    environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise UserError(f"{' '.join(command)}: exit code {done.returncode} {' '.join(last)}")
    return json.loads((done.stdout.strip().splitlines() or ["null"])[-1])


def _cpuinfo() -> dict:
    """The first processor's entry of /proc/cpuinfo."""
    with open("/proc/cpuinfo") as file:
        lines = file.read().split("\n\n")[0].splitlines()
    return dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)


def has_amx() -> bool:
    """Has it AMX with bfloat16, which --dtype bfloat16 uses in training?"""
    return "amx_bf16" in cpus.instructions()


def has_bf16() -> bool:
    """Does the processor multiply bfloat16?"""
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(cpus.instructions())


def machine() -> dict:
    """What the figures hold for."""
    info, flags = _cpuinfo(), cpus.instructions()
    name = re.sub(r"\((R|TM)\)| Processor", "", info["model name"])
    return {
        "cpu": f"{name}, family {info['cpu family']}, model {info['model']}",
        "instructions": next((name for flag, name in LEVELS.items() if flag in flags), "SSE"),
        "held_to": os.environ.get("DNNL_MAX_CPU_ISA"),
        "cores": cpus.available(),
    }


def save(title: str, **figures) -> str:
    """Keep ``figures`` under ``title`` in the file of this kind of processor; return its path."""
    about = machine()
    words = [about["cpu"], about["instructions"], about["held_to"] or "", f"{about['cores']} cores"]
    name = re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
    path = os.path.join(FOLDER, f"{name}.json")
    kept = {"machine": about, "results": {}}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
    kept["results"][title] = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        **figures,
    }
    os.makedirs(FOLDER, exist_ok=True)
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(kept, file, indent=1)
        file.write("\n")
    return path
