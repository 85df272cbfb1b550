"""PyTorch's two file formats, written without PyTorch: the tests' .pth files.

ALEXNET begins a program for a Python with PyTorch: torchvision's class or, without torchvision, the
same layers.
"""

import collections
import io
import pickle
import struct
import sys
import types
import zipfile
from unittest import mock

import numpy as np

ALEXNET = """
import sys, types
sys.modules["torchvision._meta_registrations"] = types.ModuleType("other build than torch's")
try:
    from torchvision.models import alexnet
except ImportError:
    from benchmarks.worker_peers import one_weird_trick as alexnet
print("alexnet of", alexnet.__module__)
"""


class _Named:
    """Pickled as a name of PyTorch's, such as torch._utils._rebuild_tensor_v2."""

    def __init__(self, module, name):
        self.__module__, self.__qualname__, self.__name__ = module, name, name

    def __call__(self, *args):
        raise AssertionError("is called by no reader of ours")

    def __reduce__(self):
        return self.__qualname__


_REBUILD = _Named("torch._utils", "_rebuild_tensor_v2")
_STORAGES = {
    np.dtype("f4"): _Named("torch", "FloatStorage"),
    np.dtype("V2"): _Named("torch", "BFloat16Storage"),
}
_MODULES = {"torch": types.ModuleType("torch"), "torch._utils": types.ModuleType("torch._utils")}
for one in (_REBUILD, *_STORAGES.values()):
    setattr(_MODULES[one.__module__], one.__qualname__, one)


class _Tensor:
    def __init__(self, key, array):
        self.key, self.array = key, array

    def __reduce__(self):
        strides = tuple(step // self.array.itemsize for step in self.array.strides)
        hooks = collections.OrderedDict()
        return _REBUILD, (_Storage(self), 0, self.array.shape, strides, False, hooks)


class _Storage:
    def __init__(self, tensor):
        self.tensor = tensor


class _Pickler(pickle.Pickler):
    legacy = False

    def persistent_id(self, item):
        if not isinstance(item, _Storage):
            return None
        array, more = item.tensor.array, (None,) if self.legacy else ()
        return ("storage", _STORAGES[array.dtype], item.tensor.key, "cpu", array.size, *more)


def _pickled(saved, legacy):
    file = io.BytesIO()
    pickler = _Pickler(file, protocol=2)
    pickler.legacy = legacy
    with mock.patch.dict(sys.modules, _MODULES):
        pickler.dump(saved)
    return file.getvalue()


def save(path, arrays, legacy=False, around=lambda state: state):
    """Write ``arrays``, float32 or (as V2) bfloat16, as a state dict, as torch.save does.

    Args:
        around: state dict -> what is saved, such as a dict that has it under a key.
    """
    state = collections.OrderedDict(
        (n, _Tensor(str(i), a)) for i, (n, a) in enumerate(arrays.items())
    )
    pickled = _pickled(around(state), legacy)
    with open(path, "wb") as file:
        (_legacy if legacy else _zip)(file, pickled, list(state.values()))


def _zip(file, pickled, tensors):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for tensor in tensors:
            archive.writestr(f"archive/data/{tensor.key}", tensor.array.tobytes("A"))
        archive.writestr("archive/version", "3\n")


def _legacy(file, pickled, tensors):
    for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(header, file, 2)
    file.write(pickled)
    pickle.dump([tensor.key for tensor in tensors], file, 2)
    for tensor in tensors:
        file.write(struct.pack("<q", tensor.array.size) + tensor.array.tobytes("A"))
