"""What is installed, whether it works, and what to do about the rest: one screen for a bug report.

    python -m common.doctor

The exit code is 0 if MXNet can compute, if only on the CPU, and 1 if it cannot. MXNet is tried in
a process of its own, so that one that is missing, damaged or crashes is but a line of the report.
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

from common import cli
from common.cli import UserError
from common.io.files import cache_folder
from common.runtime import bootstrap, cuda

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PATIENCE = 300  # seconds: a first import from a cold disk takes long, and building the operators
_LEAST_ROOM = 2**30  # bytes in the cache folder: CIFAR-10's download, what is built and scanned
_INDENT = 18
_TO_DO = "to do"
# Says one fact a line: what is said stays said, whatever the next step does to the process.
_TRIAL = """
import json
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
say(variant=native.variant() if native.load() else None)
"""


def main() -> int:
    """Print the report; 0 if MXNet can compute, else 1."""
    sys.stdout.reconfigure(errors="backslashreplace")
    facts = _try_mxnet()
    to_do = []
    for section in (_python, _mxnet, _native, _dali, _libraries, _gpus, _cache):
        try:
            for title, text in section(facts):
                if title == _TO_DO:
                    to_do.append(text)
                else:
                    _print(title, text)
        except Exception as error:  # what cannot be found out is a finding, too
            _print(section.__name__[1:], f"unknown: {type(error).__name__}: {error}")
    for text in to_do:
        _print(_TO_DO, text)
    usable = facts.get("computes", False)
    gpus = ",".join(map(str, facts.get("gpus", [])))
    where = f"on the CPU, and with --gpus {gpus}" if gpus else "on the CPU only"
    _print("result", f"usable {where}" if usable else "NOT usable")
    return 0 if usable else 1


def _print(title, text):
    body = textwrap.wrap(_anonymous(text), 98 - _INDENT, break_on_hyphens=False) or [""]
    print(f"{title:<{_INDENT}}" + ("\n" + " " * _INDENT).join(body))


def _anonymous(text):
    """The text without the user's home folder and name, as reports are public."""
    home = os.path.expanduser("~").rstrip("/")
    if not home:  # it is /
        return text
    for folder in {home, os.path.realpath(home)}:
        text = re.sub(re.escape(folder) + r"(?![\w.-])", "~", text)
    user = os.path.basename(home)
    return re.sub(rf"(?<=/){re.escape(user)}(?=/)", "USER", text)


def _try_mxnet():
    """What is known of MXNet: the facts of the trial, and ``fault``, if it did not end well."""
    command = [sys.executable, "-c", _TRIAL]
    try:
        done = subprocess.run(
            command, cwd=_ROOT, capture_output=True, text=True, errors="replace", timeout=_PATIENCE
        )
    except (OSError, subprocess.SubprocessError) as error:
        return {"fault": f"MXNet was tried without a result: {error}"}
    facts = {}
    for line in done.stdout.splitlines():
        with contextlib.suppress(ValueError, TypeError):  # what others print
            facts.update(json.loads(line))
    said = (done.stderr.strip().splitlines() or [""])[-1]
    if done.returncode < 0:
        number = -done.returncode
        facts["fault"] = f"MXNet's process died of signal {number}, {signal.strsignal(number)}"
    elif done.returncode:
        facts["fault"] = re.sub("^-c: error: ", "", said)
    elif not facts.get("native"):
        facts["native fault"] = said.partition(": ")[2]
    return facts


def _packages(pattern):
    """'NAME VERSION' of the installed packages whose whole name matches."""
    found = ((dist.metadata["Name"], dist.version) for dist in importlib.metadata.distributions())
    return sorted(
        f"{name} {version}" for name, version in found if re.fullmatch(pattern, name or "")
    )


def _python(facts):
    yield "Python", f"{platform.python_version()} on {platform.platform()}"
    yield "numpy", facts.get("numpy") or " ".join(_packages("numpy")) or "not installed"


def _mxnet(facts):
    packages = _packages("mxnet(-.*)?")
    if "mxnet" in facts:
        build = "CUDA" if "CUDA" in facts["features"] else "CPU"
        yield "MXNet", f"{facts['mxnet']}, {build} build ({', '.join(packages) or 'no package'})"
        yield "features", ", ".join(facts["features"])
    else:
        yield "MXNet", f"cannot be imported ({', '.join(packages) or 'not installed'})"
    if not facts.get("computes"):
        yield _TO_DO, facts.get("fault", "MXNet does not compute; install it again")
    if len(packages) > 1:
        names = " ".join(package.split()[0] for package in packages)
        yield _TO_DO, f"pip uninstall {names}, then install one: they overwrite each other's files"
    threads = f"{facts['threads']} of OpenMP, " if "threads" in facts else ""
    yield "threads", f"{threads}{bootstrap.physical_cores()} cores, {os.cpu_count()} logical"


def _native(facts):
    compiler = os.environ.get("CXX", "g++")
    version = f"no {compiler}"
    if shutil.which(compiler):
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30)
        version = done.stdout.partition("\n")[0]
    if facts.get("native"):
        variant = facts.get("variant", "unknown")
        yield "native operators", f"built, loaded; {variant} variant; {version}"
    elif "computes" not in facts:
        yield "native operators", f"not tried; {version}"
    else:
        fault = facts.get("native fault") or facts["fault"]
        yield "native operators", f"none; {version}"
        yield _TO_DO, f"native operators: {fault}"


def _dali(_facts):
    yield "DALI", ", ".join(_packages("nvidia-dali.*")) or "not installed (optional: '.[dali]')"


def _libraries(facts):
    facts["cuda"] = cuda.is_needed()
    if not facts["cuda"]:
        yield "CUDA libraries", "not needed by this MXNet"
    elif cuda.on_system():
        yield "CUDA libraries", "the system's"
    else:
        yield "CUDA libraries", ", ".join(map(cuda.installed, cuda.REQUIREMENTS.values()))


def _gpus(facts):
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
        capability = ".".join(map(str, card.capability))
        yield (
            f"GPU {index}",
            (
                f"{card.name}, compute capability {capability}, {card.free / 2**30:.1f} GiB free:"
                f" {fault or 'usable'}"
            ),
        )


def _cache(_facts):
    folder = existing = os.path.abspath(cache_folder())
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    free = shutil.disk_usage(existing).free
    yield "cache", f"{folder}, {free / 1e9:.1f} GB free"
    if free < _LEAST_ROOM or not os.access(existing, os.W_OK):
        yield _TO_DO, f"{folder}: needs 1 GB that can be written, or set XDG_CACHE_HOME to another"


if __name__ == "__main__":
    cli.run(main)
