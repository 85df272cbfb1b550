"""Report what is installed, whether it works, and what to do if not: one screen for a bug report.

    python -m common.doctor

The exit code is 0 if MXNet computes, even if only on the CPU, and every script can be imported;
else 1. Both are tried in a separate process, so that a package that is missing or damaged, or that
crashes, becomes a line of the report.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from typing import Any, Dict, Iterator, List, Tuple

from common import cli
from common.cli import UserError
from common.io import cpus
from common.io.children import ROOT
from common.io.files import cache_folder
from common.io.libraries import remedy
from common.runtime import cuda
from common.version import VERSION

_PATIENCE = 300  # seconds: importing from a cold disk and building the operators take long
_LEAST_ROOM = 2**30  # bytes in the cache folder, for CIFAR-10's download, builds and scans
_INDENT = 18
_TO_DO = "to do"
_Section = Iterator[Tuple[str, str]]  # titles and texts of the report's rows
# Flags of /proc/cpuinfo that decide which kernels MXNet and native/ choose
_INSTRUCTIONS = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
)
# Prints each fact at once, on a line of its own: the next step may end the process.
_TRIAL = """
import importlib, json
def say(**fact):
    print(json.dumps(fact), flush=True)
from common.runtime.mxnet import mx
import ctypes, numpy
say(numpy=numpy.__version__)
say(mxnet=mx.__version__, features=[f.name for f in mx.runtime.feature_list() if f.enabled])
say(threads=ctypes.CDLL("libgomp.so.1").omp_get_max_threads())
say(computes=bool((mx.nd.dot(mx.nd.ones((64, 64)), mx.nd.ones((64, 64))) == 64).asnumpy().all()))
from common.runtime import native
say(native=native.load())
say(variant=native.variant() if native.load() else None, amx=native.load() and native.has_amx())
from common.io.opencv import cv2
say(opencv=cv2.__version__)
for script in ("train_imagenet", "predict", "score", "quantize", "import_weights", "export_mxnet",
               "export_onnx", "export_torch", "ablate", "data.folder", "data.imagenet",
               "data.cifar10", "data.mnist", "data.check", "common.adopt"):
    importlib.import_module(script)
say(scripts=True)
import sys
for module in sys.argv[1:]:
    try:
        say(**{module: getattr(importlib.import_module(module), "__version__", "works")})
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and module.startswith(error.name or "-")
        say(**{module: None} if absent else {module + " fault": str(error) or repr(error)})
"""
# What some flags import -> the extra of setup.cfg that brings it
_EXTRAS = {
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "matplotlib.figure": "plots",
    "nvidia.dali": "dali",
}


def main() -> int:
    """Print the report; 0 if MXNet computes and the scripts can be imported, else 1."""
    facts = _try_mxnet()
    to_do = []
    for section in (_python, _cpu, _mxnet, _native, _opencv, _extras, _libraries, _gpus, _cache):
        try:
            for title, text in section(facts):
                if title == _TO_DO:
                    to_do.append(text)
                else:
                    _print(title, text)
        except Exception as error:  # the rest of the report is still of use
            _print(section.__name__[1:], f"unknown: {type(error).__name__}: {error}")
    for text in to_do:
        _print(_TO_DO, text)
    usable = facts.get("computes", False) and facts.get("scripts", False)
    gpus = ",".join(map(str, facts.get("gpus", [])))
    where = f"on the CPU, and with --gpus {gpus}" if gpus else "on the CPU only"
    _print("result", f"usable {where}" if usable else "NOT usable")
    return 0 if usable else 1


def _print(title: str, text: str) -> None:
    # A long path is one word.
    wrapper = textwrap.TextWrapper(98 - _INDENT, break_on_hyphens=False, break_long_words=False)
    body = wrapper.wrap(_anonymous(text)) or [""]
    print(f"{title:<{_INDENT}}" + ("\n" + " " * _INDENT).join(body))


def _anonymous(text: str) -> str:
    """The text without the user's home folder and name: bug reports are public."""
    home = os.path.expanduser("~").rstrip("/")
    if not home:  # it is /
        return text
    for folder in {home, os.path.realpath(home)}:
        text = re.sub(re.escape(folder) + r"(?![\w.-])", "~", text)
    user = os.path.basename(home)
    return re.sub(rf"(?<=/){re.escape(user)}(?=/)", "USER", text)


def _try_mxnet() -> Dict[str, Any]:
    """The facts that the trial printed; with ``fault``, the reason, if it failed."""
    command = [sys.executable, "-c", _TRIAL, *_EXTRAS]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=_PATIENCE
        )
    except (OSError, subprocess.SubprocessError) as error:
        return {"fault": f"the trial of MXNet gave no result: {error}"}
    facts: Dict[str, Any] = {}
    for line in done.stdout.splitlines():
        with contextlib.suppress(ValueError, TypeError):  # other output
            facts.update(json.loads(line))
    said = done.stderr.strip().splitlines() or [""]
    if done.returncode < 0:
        number = -done.returncode
        facts["fault"] = f"MXNet's process died of signal {number}, {signal.strsignal(number)}"
    elif done.returncode:
        missing = re.match("ModuleNotFoundError: No module named '([^']*)'", said[-1])
        facts["fault"] = re.sub("^ImportError: ", "", said[-1])
        if missing:
            facts["fault"] = f"{missing[1]}: not installed; pip install {missing[1]}"
    for line in said:
        if line.startswith("native operators: "):
            facts["native fault"] = line
    return facts


def _packages(pattern: str) -> List[str]:
    """'NAME VERSION' of each installed package whose whole name matches."""
    dists = ((dist.metadata["Name"], dist.version) for dist in importlib.metadata.distributions())
    return sorted(
        f"{name} {version}" for name, version in dists if re.fullmatch(pattern, name or "")
    )


def _one_of(packages: List[str]) -> _Section:
    """What to do if several packages install the same files."""
    if len(packages) > 1:
        names = " ".join(package.split()[0] for package in packages)
        yield _TO_DO, f"pip uninstall {names}, then install one: they overwrite each other's files"


def _python(facts: Dict[str, Any]) -> _Section:
    yield "alexnet-mxnet", VERSION
    yield "Python", f"{platform.python_version()} on {platform.platform()}"
    yield "numpy", facts.get("numpy") or " ".join(_packages("numpy")) or "not installed"


def _cpu(facts: Dict[str, Any]) -> _Section:
    flags = cpus.instructions()
    sets = " ".join(name for name in _INSTRUCTIONS if name in flags)
    yield "CPU", f"{cpus.model()}; {sets or 'flags unknown'}"
    threads = f"{facts['threads']} of OpenMP, " if "threads" in facts else ""
    yield "threads", f"{threads}{cpus.available()} usable CPUs, {os.cpu_count()} logical ones"


def _mxnet(facts: Dict[str, Any]) -> _Section:
    packages = _packages("mxnet(-.*)?")
    if "mxnet" in facts:
        build = "CUDA" if "CUDA" in facts["features"] else "CPU"
        yield "MXNet", f"{facts['mxnet']}, {build} build ({', '.join(packages) or 'no package'})"
        yield "features", ", ".join(facts["features"])
    else:
        yield "MXNet", f"cannot be imported ({', '.join(packages) or 'not installed'})"
    if not facts.get("computes"):
        yield _TO_DO, facts.get("fault", "MXNet does not compute; install it again")
    yield from _one_of(packages)


def _native(facts: Dict[str, Any]) -> _Section:
    compiler = os.environ.get("CXX", "g++")
    version = f"no {compiler}"
    if shutil.which(compiler):
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30)
        version = done.stdout.partition("\n")[0]
    if facts.get("native"):
        variant = facts.get("variant", "unknown")
        amx = ", AMX" if facts.get("amx") else ""
        yield "native operators", f"built, loaded; {variant} variant{amx}; {version}"
    elif "computes" not in facts:
        yield "native operators", f"not tried; {version}"
    else:
        yield "native operators", f"none; {version}"
        yield _TO_DO, facts.get("native fault") or f"native operators: {facts['fault']}"


def _opencv(facts: Dict[str, Any]) -> _Section:
    packages = _packages("opencv-.*")
    version = facts.get("opencv") or ("cannot be imported" if "native" in facts else "not tried")
    yield "OpenCV", f"{version} ({', '.join(packages) or 'no package'})"
    if "native" in facts and not facts.get("scripts"):
        yield _TO_DO, facts["fault"]
    yield from _one_of(packages)


def _extras(facts: Dict[str, Any]) -> _Section:
    states = []
    for module, extra in _EXTRAS.items():
        fault = facts.get(f"{module} fault")
        if facts.get("scripts") and not fault and module not in facts:
            fault = facts.pop("fault", None)  # the first that was not tried ended the process
        if fault:
            again = f"pip install --force-reinstall '.[{extra}]'"
            yield _TO_DO, f"{module}: cannot be imported ({fault}); {remedy(fault, again)}"
        state = "cannot be imported" if fault else facts.get(module, "not tried")
        states.append(f"{module} {state or 'not installed'}")
    yield "extras", ", ".join(states)


def _libraries(facts: Dict[str, Any]) -> _Section:
    facts["cuda"] = cuda.is_needed()
    if not facts["cuda"]:
        yield "CUDA libraries", "not needed by this MXNet"
    elif cuda.on_system():
        yield "CUDA libraries", "the system's"
    else:
        yield "CUDA libraries", ", ".join(map(cuda.installed, cuda.REQUIREMENTS.values()))


def _gpus(facts: Dict[str, Any]) -> _Section:
    try:
        driver, cards = cuda.driver_and_cards()
    except UserError as error:
        yield "GPUs", str(error)
        return
    yield "driver", driver
    if not cards:
        yield "GPUs", f"none{cuda.hidden()}"
    for index, card in enumerate(cards):
        fault = card.fault() or ("" if facts["cuda"] else "needs pip install '.[cuda]'")
        if not fault:
            facts.setdefault("gpus", []).append(index)
        about = f"compute capability {card.capability[0]}.{card.capability[1]}"
        free = f"{card.free / 2**30:.1f} GiB free"
        yield f"GPU {index}", f"{card.name}, {about}, {free}: {fault or 'usable'}"


def _cache(_facts: Dict[str, Any]) -> _Section:
    folder = existing = os.path.abspath(cache_folder())
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    free = shutil.disk_usage(existing).free
    yield "cache", f"{folder}, {free / 1e9:.1f} GB free"
    if free < _LEAST_ROOM or not os.access(existing, os.W_OK):
        needed = "needs 1 GB of writable space, or set XDG_CACHE_HOME to another folder"
        yield _TO_DO, f"{folder}: {needed}"


if __name__ == "__main__":
    cli.run(main)
