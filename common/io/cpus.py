"""How many CPUs this process may keep busy, and how many threads OpenMP starts on them."""

import math
import os
import platform
import re
from typing import Iterator, List

from common.cli import UserError


def available(root: str = "/") -> int:
    """The number of CPUs that this process may keep busy, at least 1.

    Three limits hold: the affinity mask, the hyper-threads of a core (they share its arithmetic
    units, so a core counts once) and the CPU quota of the control groups, as ``docker run --cpus``
    sets it. A quota of 1.5 CPUs counts as 2. /proc and /sys are looked for in ``root``.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    cores = {read_text(f"{root}/{_SIBLINGS.format(cpu)}") or cpu for cpu in allowed}
    quotas = (_quota(folder) for folder in _control_groups(root))
    return max(1, math.ceil(min([len(cores), *quotas])))


def openmp_threads() -> int:
    """The threads of OpenMP's outermost level: OMP_NUM_THREADS, else :func:`available`.

    The variable may list a number for each level of nested parallelism, such as ``4,2``; anything
    else in it is a UserError.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not text:
        return available()
    numbers = text.split(",")
    if not all(number.strip().isdecimal() and int(number) > 0 for number in numbers):
        raise UserError(
            f"OMP_NUM_THREADS={text}: is not a number of threads such as 4; set one, or unset it"
        )
    return int(numbers[0])


def model(root: str = "/") -> str:
    """The processor's name, such as 'AMD EPYC'; its architecture where /proc does not say."""
    found = re.search(r"^model name\s*: (.*)$", read_text(f"{root}/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.machine()


def instructions(root: str = "/") -> List[str]:
    """The instruction sets of the processor by Linux's names, such as 'avx2'; empty if unknown."""
    found = re.search(r"^flags\s*: (.*)$", read_text(f"{root}/proc/cpuinfo"), re.MULTILINE)
    return found[1].split() if found else []


def has_int8(root: str = "/") -> bool:
    """Whether the processor multiplies 8-bit integers faster than float32 (VNNI).

    The environment variable DNNL_MAX_CPU_ISA may keep MXNet from it.
    """
    level = os.environ.get("DNNL_MAX_CPU_ISA")
    found = {"avx512_vnni", "avx_vnni"} & {*instructions(root)}
    if level == "AVX2_VNNI":
        found.discard("avx512_vnni")
    return bool(found) and level not in _WITHOUT_VNNI


# The levels of oneDNN 2.4, which MXNet 1.9.1 has in it.
_WITHOUT_VNNI = ("SSE41", "AVX", "AVX2", "AVX512_MIC", "AVX512_MIC_4OPS", "AVX512_CORE")
_SIBLINGS = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def read_text(path: str) -> str:
    """The text of a file; empty if it cannot be read."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _control_groups(root: str) -> Iterator[str]:
    """The folders of the control groups that limit this process's CPU time, outer ones included.

    They are those of version 2's one hierarchy and of version 1's controller ``cpu``.
    """
    paths = {}  # by controller; version 2 has one line, and names none
    for line in read_text(f"{root}/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    for line in read_text(f"{root}/proc/self/mountinfo").splitlines():
        mount, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if controller in paths and (not controller or controller in options.split(",")):
            top, folder = mount.split()[3:5]
            inner = os.path.relpath(paths[controller], top)
            folder = f"{root}/{folder}"
            yield folder
            for name in [] if inner.startswith(".") else inner.split("/"):
                folder = f"{folder}/{name}"
                yield folder


def _quota(folder: str) -> float:
    """The CPUs that a control group may use, infinite without a limit."""
    quota, _, period = read_text(f"{folder}/cpu.max").partition(" ")
    if not quota:
        quota = read_text(f"{folder}/cpu.cfs_quota_us")
        period = read_text(f"{folder}/cpu.cfs_period_us")
    try:
        used, whole = int(quota), int(period)
    except ValueError:  # "max", or no such file
        return math.inf
    return used / whole if used > 0 and whole > 0 else math.inf
