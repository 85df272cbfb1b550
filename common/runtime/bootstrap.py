"""Prepare the process for ``import mxnet``: threads, log level, libraries of the system and CUDA's.

MXNet starts only half as many OpenMP threads as there are cores; :func:`prepare` corrects that. It
keeps every environment variable that the user has set. prepare_mxnet.py mends the rest.
"""

import contextlib
import ctypes
import importlib
import os
import sys
from types import ModuleType
from typing import Any

from common.cli import UserError
from common.io import cpus, libraries

from . import cuda


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
    """Make MXNet fast and its import work; UserError if a library or the driver is missing."""
    if sys.flags.optimize > 1:
        raise UserError(
            "PYTHONOPTIMIZE=2 (-OO) takes away docstrings, which MXNet needs for its start; set 1"
        )
    # Without the variable MXNet starts half as many threads; a list such as 4,2 kills it.
    os.environ["OMP_NUM_THREADS"] = str(cpus.openmp_threads())
    # How long a waiting thread spins before it sleeps. GNU OpenMP's default, some milliseconds,
    # makes small networks ten times slower as soon as another process uses the cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Each thread that calls OpenMP has a team of its own. If all teams together have more threads
    # than there are CPUs, GNU OpenMP lets them spin a hundredth of that only: then they sleep
    # between layers. So no copy of an array calls it. Threads that read images do, so even then
    # the others spin a tenth.
    os.environ.setdefault("MXNET_CPU_PARALLEL_SIZE", "1000000000")
    os.environ.setdefault("OMP_WAIT_POLICY", "active")
    for talkative in ("SUBGRAPH_VERBOSE", "STORAGE_FALLBACK_LOG_VERBOSE", "CUDNN_LIB_CHECKING"):
        os.environ.setdefault(f"MXNET_{talkative}", "0")
    # After the settings above: GNU OpenMP reads them when it is loaded.
    for name in ("libgomp.so.1", "libquadmath.so.0") if sys.platform == "linux" else ():
        try:
            ctypes.CDLL(name)
        except OSError:
            package = libraries.PACKAGES[name]
            raise UserError(f"{name}: not found, and MXNet needs it; apt-get install {package}")
    if cuda.is_needed():
        # --gpus numbers GPUs as nvidia-smi does; CUDA's own order begins with the fastest.
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        # Fusion of element-wise layers compiles PTX of CUDA 11.8, which drivers before 520 refuse.
        # It finds nothing to fuse in AlexNet.
        os.environ.setdefault("MXNET_USE_FUSION", "0")
        cuda.load_libraries()
