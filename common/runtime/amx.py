"""AMX, Intel's tiles of 8-bit integers, for int8 layers that stay MXNet's oneDNN's.

oneDNN 2.4.4, which MXNet 1.9.1 has in it, uses AMX only if DNNL_MAX_CPU_ISA=AVX512_CORE_AMX says
so, and then without asking Linux for the tiles, so that the process ends in SIGILL.
"""

import contextlib
import ctypes
import os
import platform
import sys
from typing import Iterator

from common.io import cpus

VARIABLE, LEVEL = "DNNL_MAX_CPU_ISA", "AVX512_CORE_AMX"
_ARCH_PRCTL, _REQ_XCOMP_PERM, _XTILEDATA = 158, 0x1023, 18  # of Linux 5.16 and later, x86-64


@contextlib.contextmanager
def asked_for() -> Iterator[bool]:
    """Whether oneDNN may use AMX; to be entered before ``import mxnet``, before threads start.

    oneDNN reads the variable when its first layer is made, which has to be before the end. Then it
    is gone: a child process would need Linux's permission for itself. One that the user has set
    stays, save for AMX where there is none: a layer is slower then, and no SIGILL.
    """
    ours = VARIABLE not in os.environ
    if not ours and os.environ[VARIABLE] != LEVEL:
        yield False
    elif not permitted():
        os.environ.pop(VARIABLE, None)
        yield False
    else:
        os.environ[VARIABLE] = LEVEL
        try:
            yield True
        finally:
            if ours:
                del os.environ[VARIABLE]


def permitted(root: str = "/") -> bool:
    """Whether the CPU has AMX's tiles of integers and Linux lets this process use them."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return False
    if not {"amx_tile", "amx_int8"} <= set(cpus.instructions(root)):
        return False
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQ_XCOMP_PERM, _XTILEDATA) == 0
