"""Our C++ operators: built once with g++, kept in the cache, loaded into MXNet.

native/ has convolution (with the relu after it), LRN (with the relu and max pooling around it), max
pooling and fully connected layers, which common/graph/native_operators.py puts into graphs, and the
layers of int8 networks, which common/graph/int8_operators.py does; the update of
:class:`NativeSGD`; the crops and normalisation of common/input/prefetch.py; and a check that makes
an undecodable image an error (without it, MXNet ends the process).
"""

import contextlib
import ctypes
import functools
import glob
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import threading
from typing import Any, Sequence

from common.cli import UserError
from common.io.children import ROOT
from common.io.files import atomic, cache_folder

from .mxnet import mx

_FOLDER = os.path.join(ROOT, "native")
_SOURCE = os.path.join(_FOLDER, "ops.cc")
# No flag for this machine's processor: the code holds variants (native/variants.h) and picks one
# when it is loaded. Without contraction (fused multiply-add) all of them give the same bits; only
# convolution and fully connected layers use it: their last bits differ between processors, as
# those of MXNet's do.
_OPTIMISE = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp"]
_FLAGS = ["-std=c++11", "-fPIC", "-shared", *_OPTIMISE]
_LOADING = threading.Lock()


def load() -> bool:
    """Register the ``_alexnet_*`` operators with MXNet, building them if need be.

    Any number of threads may call it; the first one does the work, once in a process. It returns
    whether they are registered; if not, one line on stderr says why.
    """
    with _LOADING:
        return _load()


@functools.lru_cache(None)
def _load():
    try:
        mx.library.load(build(), False)
        library().alexnet_check_images(ctypes.c_void_p(mx.base._LIB._handle))
    except (UserError, OSError, mx.base.MXNetError) as error:
        print(
            f"native operators: {_cause(error)}; using MXNet's own, which are correct but slower",
            file=sys.stderr,
        )
        return False
    return True


def _cause(error):
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error).strip().splitlines()[-1]


@functools.lru_cache(None)
def library() -> ctypes.CDLL:
    """The plain C functions of the library, built if need be; raises what :func:`build` does."""
    return ctypes.CDLL(build())


# What lines say that need not be read: nothing is wrong, or an exception says the same.
MXNET_NOISE = (
    "Create ImageRecordIter2 optimized for CPU backend",
    "Currently, quantized activation only supports relu",
    "Neither FCompute nor FComputeEx registered",
)
OPENCV_NOISE = (
    "[ WARN:", "[ERROR:", "[libprotobuf ", "libpng error: ", "libpng warning: ",
    "Corrupt JPEG data: ", "Premature end of JPEG file",
)  # fmt: skip


def drop_lines(texts: Sequence[str]) -> None:
    """Keep lines of C and C++ code that contain one of ``texts`` off stderr, whichever thread
    writes them; everything else is written as before.

    It holds for the process, from now on and in place of an earlier call's ``texts``. It is done by
    the native library: where that is not built, nothing changes.
    """
    with contextlib.suppress(UserError, OSError):
        if is_built():
            library().alexnet_drop_lines("\n".join(texts).encode())


def variant() -> str:
    """For which processors the operators in use were compiled: AVX-512, AVX2 or baseline.

    The environment variable DNNL_MAX_CPU_ISA holds them back: native/variants.h.
    """
    name = library().alexnet_variant
    name.restype = ctypes.c_char_p
    return name().decode()


def has_amx() -> bool:
    """Whether products of bfloat16, and of int8, are AMX's, an Intel server processor's:
    native/amx.h.

    If not, they are products of float32 with rounded values, which are no faster.
    """
    function = library().alexnet_amx
    function.restype = ctypes.c_bool
    return function()


def has_int8() -> bool:
    """Whether our int8 operators are there, and multiply by VNNI or AMX: native/int8_product.h."""
    if not (is_built() and load()):
        return False
    function = library().alexnet_int8
    function.restype = ctypes.c_bool
    return function()


def is_built() -> bool:
    """Whether the library is in the cache, so that :func:`load` does not have to build it."""
    with contextlib.suppress(UserError, OSError):
        return os.path.exists(_library_path())
    return False


def build() -> str:
    """Path of the built library; it appears there only when whole.

    UserError without a compiler or if it fails; that, or OSError, if our files cannot be used.
    """
    path = _library_path()
    if os.path.exists(path):
        return path
    compiler = _compiler()
    os.makedirs(cache_folder(), exist_ok=True)
    with atomic(path) as temporary:
        _compile(compiler, temporary)
    return path


def _library_path():
    """Where this version's library is, or will be."""
    identity = hashlib.sha256(" ".join([*_FLAGS, mx.__version__]).encode())
    for source in [*sorted(glob.glob(os.path.join(_FOLDER, "*.h"))), _SOURCE]:
        with open(source, "rb") as file:
            identity.update(file.read())
    return os.path.join(cache_folder(), f"ops-{identity.hexdigest()[:16]}.so")


def _compiler():
    """The command that CXX names, which may have arguments: ``ccache g++``."""
    text = os.environ.get("CXX", "").strip() or "g++"
    try:
        compiler = shlex.split(text)
    except ValueError as error:
        raise UserError(f"CXX={text}: {error}") from None
    if shutil.which(compiler[0]) is None:
        raise UserError(f"no {compiler[0]} to build them with (apt-get install g++)")
    return compiler


def _compile(compiler, path):
    package = os.path.dirname(mx.__file__)
    sources = [_SOURCE, os.path.join(package, "src", "lib_api.cc")]
    command = [*compiler, *_FLAGS, f"-I{package}/include", "-o", path, *sources]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    # What binutils before 2.35 and 2.36 do not know is left out.
    unknown = {"tile": "-DALEXNET_NO_AMX", "vpdpbusd": "-DALEXNET_NO_VNNI"}
    without = [flag for word, flag in unknown.items() if word in done.stderr]
    if done.returncode and without:
        command += without
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no reason"]
        raise UserError(f"{' '.join(compiler)} fails: {lines[0]}")


@mx.optimizer.register
class NativeSGD(mx.optimizer.SGD):
    """``mx.optimizer.SGD`` for float32 weights on the CPU, equal to the last bit; needs `load`.

    MXNet's own groups the updates of several weights into one operator, whose threads share
    the work badly: it takes three times as long as the memory's speed allows.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.aggregate_num = 0  # one weight a call

    def update(self, index: int, weight: Any, grad: Any, state: Any) -> None:
        """Change ``weight`` and its momentum ``state`` in place."""
        if state is None or self.clip_gradient:  # without momentum there is nothing to fuse
            super().update(index, weight, grad, state)
            return
        self._update_count(index)
        mx.nd._internal._alexnet_sgd_mom(
            weight,
            grad,
            state,
            lr=self._get_lr(index),
            wd=self._get_wd(index),
            momentum=self.momentum,
            rescale_grad=self.rescale_grad,
        )

    update_multi_precision = update
