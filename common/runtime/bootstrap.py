"""Prepare the process for ``import mxnet``: numpy's old names, threads, log level, CUDA.

MXNet was retired in 2023. Its last release uses names that numpy 1.24 and numpy 2 removed, and it
starts only half as many OpenMP threads as there are cores. :func:`prepare` corrects both. It keeps
every name that numpy still has and every environment variable that the user has set.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

from common import cli
from common.cli import UserError
from common.io import cpus, libraries

from . import cuda

# Names that ``import mxnet`` (or mxnet.numpy's fallback table) reads from numpy, and that numpy
# 1.24 or numpy 2 removed. The financial functions left numpy in 1.20; MXNet only lists them.
_ALIASES = {
    "PZERO": 0.0,
    "NZERO": -0.0,
    "NINF": float("-inf"),
    "PINF": float("inf"),
    "Inf": float("inf"),
    "NAN": float("nan"),
    "NaN": float("nan"),
}
_RENAMED = {
    "alltrue": "all",
    "sometrue": "any",
    "round_": "round",
    "product": "prod",
    "in1d": "isin",
    "trapz": "trapezoid",
}
_LISTED_ONLY = ("mirr", "npv", "pmt", "ppmt", "pv", "rate")


def _gone(name):
    def function(*_args, **_kwargs):
        raise NotImplementedError(f"numpy.{name} was removed from numpy")

    return function


def _supply_numpy_names() -> None:
    try:
        import numpy as np
    except ImportError as error:
        cause = str(error).strip().splitlines()[0]
        cli.refuse(f"numpy: cannot be imported ({cause}); pip install --force-reinstall numpy")
    wanted = dict(_ALIASES, bool=bool, int=int, float=float, object=object)
    wanted["msort"] = lambda a: np.sort(a, axis=0)
    wanted.update({old: getattr(np, new, None) for old, new in _RENAMED.items()})
    wanted.update({name: _gone(name) for name in _LISTED_ONLY})
    old = tuple(int(part) for part in np.__version__.split(".")[:2]) < (1, 24)
    for name, value in wanted.items():
        # np.__dict__, not hasattr: numpy 1.20 to 1.23 warn when a deprecated name is looked up.
        if name not in np.__dict__ and not (old and name in ("bool", "int", "float", "object")):
            setattr(np, name, value)
    if not hasattr(np, "compat"):
        np.compat = ModuleType("numpy.compat")
    if not hasattr(np.compat, "basestring"):
        np.compat.basestring = (str, bytes)


def supply_onnx_mapping() -> None:
    """Supply ``onnx.mapping``, which MXNet's converter reads and onnx 1.19 removed."""
    import onnx

    with contextlib.suppress(ImportError):
        importlib.import_module("onnx.mapping")
        return
    kinds = onnx.TensorProto
    mapping: Any = ModuleType("onnx.mapping")
    mapping.TENSOR_TYPE_TO_NP_TYPE = {
        kind: onnx.helper.tensor_dtype_to_np_dtype(kind)
        for kind in (kinds.FLOAT, kinds.FLOAT16, kinds.DOUBLE, kinds.BOOL)
        + (kinds.INT8, kinds.UINT8, kinds.INT32, kinds.INT64)
    }
    mapping.NP_TYPE_TO_TENSOR_TYPE = {
        numpy_type: kind for kind, numpy_type in mapping.TENSOR_TYPE_TO_NP_TYPE.items()
    }
    sys.modules["onnx.mapping"] = onnx.mapping = mapping


def prepare() -> None:
    """Make ``import mxnet`` work, and MXNet fast; safe to call more than once.

    What is missing (a package, a library of the system, the driver) becomes one line on stderr,
    and the process exits with code 2.
    """
    if sys.flags.optimize > 1:
        cli.refuse(
            "PYTHONOPTIMIZE=2 (-OO) takes away docstrings, which MXNet needs for its start; set 1"
        )
    if importlib.util.find_spec("mxnet") is None:
        cli.refuse(
            "mxnet: not installed for this Python; run . .venv/bin/activate (after make demo)"
        )
    if sys.version_info >= (3, 12) and importlib.util.find_spec("distutils") is None:
        cli.refuse("distutils: MXNet imports it and this Python has none; pip install setuptools")
    _supply_numpy_names()
    _set_threads()
    # How long a waiting thread spins before it sleeps. GNU OpenMP's default, some milliseconds,
    # makes small networks ten times slower as soon as another process uses the cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if "--verbose" not in sys.argv:
        os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
        os.environ.setdefault("MXNET_STORAGE_FALLBACK_LOG_VERBOSE", "0")
        os.environ.setdefault("MXNET_CUDNN_LIB_CHECKING", "0")
    _check_libraries()  # after the settings above: GNU OpenMP reads them when it is loaded
    if cuda.is_needed():
        _prepare_cuda()


def _set_threads() -> None:
    # Without the variable MXNet starts half as many threads; a list such as 4,2 kills it.
    try:
        os.environ["OMP_NUM_THREADS"] = str(cpus.openmp_threads())
    except UserError as error:
        cli.refuse(str(error))


def _prepare_cuda() -> None:
    # --gpus numbers GPUs as nvidia-smi does; CUDA's own order begins with the fastest.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    # Fusion of element-wise layers compiles PTX of CUDA 11.8, which drivers before 520 refuse. It
    # finds nothing to fuse in AlexNet.
    os.environ.setdefault("MXNET_USE_FUSION", "0")
    try:
        cuda.load_libraries()
    except UserError as error:
        cli.refuse(str(error))


def _check_libraries() -> None:
    name = libraries.missing(["libgomp.so.1", "libquadmath.so.0"])
    if name:
        package = libraries.PACKAGES[name]
        cli.refuse(f"{name}: not found, and MXNet needs it; apt-get install {package}")
