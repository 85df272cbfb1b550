"""Our C++ operators: built once with g++, kept in the cache, loaded into MXNet.

native/ has convolution (with the relu after it), LRN (with the relu and max pooling around it), max
pooling and fully connected layers, which common/graph/native_operators.py puts into graphs, the
update of :class:`NativeSGD`, the crops and normalisation of common/input/prefetch.py, and what
keeps MXNet alive when it cannot decode an image.
"""

import ctypes
import functools
import glob
import hashlib
import os
import shutil
import subprocess
import sys

from common.io.files import atomic, cache_folder

from .mxnet import mx

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_FOLDER = os.path.join(_ROOT, "native")
_SOURCE = os.path.join(_FOLDER, "ops.cc")
# No flag for this machine's processor: the code holds variants and picks one when it is loaded.
# Without contraction (fused multiply-add) all of them give the same bits; convolution and
# fully connected layers alone use it: their last bits differ between processors, as MXNet's do.
_OPTIMISE = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp"]
_FLAGS = ["-std=c++11", "-fPIC", "-shared", *_OPTIMISE]


class BuildError(Exception):
    """Why there are no native operators here, in one line."""


@functools.lru_cache(None)
def load() -> bool:
    """Register the ``_alexnet_*`` operators with MXNet, building them if need be.

    Returns:
        Whether they are there. If not, a line on stderr says why and what is lost.
    """
    try:
        mx.library.load(build(), False)
    except (BuildError, mx.base.MXNetError) as error:
        cause = str(error).strip().splitlines()[-1]
        print(
            f"native operators: {cause}; going on with MXNet's own, right but slower",
            file=sys.stderr,
        )
        return False
    return True


@functools.lru_cache(None)
def library() -> ctypes.CDLL:
    """The plain C functions of the library, which is built if need be.

    Raises:
        BuildError: no compiler, or it fails.
    """
    return ctypes.CDLL(build())


def build() -> str:
    """Path of the built library; it appears there only when whole.

    Raises:
        BuildError: no compiler, or it fails.
    """
    package = os.path.dirname(mx.__file__)
    identity = hashlib.sha256(" ".join([*_FLAGS, mx.__version__]).encode())
    for source in sorted(glob.glob(os.path.join(_FOLDER, "*.h")) + [_SOURCE]):
        with open(source, "rb") as file:
            identity.update(file.read())
    name = f"ops-{identity.hexdigest()[:16]}.so"
    path = os.path.join(cache_folder(), name)
    if os.path.exists(path):
        return path
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise BuildError(f"no {compiler} to build them with (apt-get install g++)")
    os.makedirs(cache_folder(), exist_ok=True)
    with atomic(path) as temporary:
        sources = [_SOURCE, os.path.join(package, "src", "lib_api.cc")]
        command = [compiler, *_FLAGS, f"-I{package}/include", "-o", temporary, *sources]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no reason"]
            raise BuildError(f"{compiler} fails: {lines[0]}")
    return path


@mx.optimizer.register
class NativeSGD(mx.optimizer.SGD):
    """``mx.optimizer.SGD`` for float32 weights on the CPU, equal to the last bit; needs `load`.

    MXNet's own groups the updates of several weights into one operator, whose threads share
    the work badly: it takes three times as long as the memory's speed allows.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.aggregate_num = 0  # one weight a call

    def update(self, index, weight, grad, state):
        """Change ``weight`` and its momentum ``state`` in place."""
        if state is None:  # no momentum: nothing to fuse
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
            clip_gradient=-1 if self.clip_gradient is None else self.clip_gradient,
        )

    update_multi_precision = update
