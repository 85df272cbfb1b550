"""The tensors of a PyTorch file (.pth, .pt, .pth.tar), read without PyTorch and without its pickle.

Such a file is a pickle, which may call any function of any module, and the bytes of the tensors.
Here the unpickler knows five names, all of which only describe tensors; any other name is refused
before anything is called. PyTorch's ``weights_only`` loader does the same, but needs 200 MB of
PyTorch, and refuses files of Python 2.

torch/serialization.py describes both forms: a zip archive since version 1.6, and before it several
pickles in a row, after which the bytes follow.
"""

import collections
import pickle
import struct
import zipfile
from typing import IO, Any, Callable, Dict, NamedTuple, Tuple

import numpy as np

from common.cli import UserError

_TYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "V2",  # the upper half of a float32
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype


class _Tensor(NamedTuple):
    """Where a tensor's elements are: offset and strides in elements of its storage."""

    storage: _Storage
    offset: int
    size: Tuple[int, ...]
    stride: Tuple[int, ...]

    def array(self, content: bytes) -> np.ndarray:
        """The tensor, from the bytes of its storage; numpy refuses what lies beyond them."""
        dtype = self.storage.dtype
        strides = tuple(dtype.itemsize * step for step in self.stride)
        offset = dtype.itemsize * self.offset
        values = np.ndarray(self.size, dtype, content, offset, strides).copy()
        if dtype.kind == "V":
            return (values.view("<u2").astype("<u4") << 16).view("<f4")
        return values


def _tensor(storage, offset, size, stride, *_):
    return _Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)))


_KNOWN: Dict[Tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{("torch", name): name for name in _TYPES},
    **{("torch.cuda", name): name for name in _TYPES},
}


class _Refused(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes]):
        super().__init__(file, encoding="latin-1")  # Python 2 wrote some
        self.storages: Dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """One of the names that describe tensors."""
        if (module, name) not in _KNOWN:
            raise _Refused(f"{module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage; ``pid`` is ('storage', type, key, device, number of elements, ...)."""
        _, kind, key, *_ = pid
        return self.storages.setdefault(key, _Storage(key, np.dtype(_TYPES[kind])))


def read(path: str) -> Dict[str, np.ndarray]:
    """Name -> array, of the tensors of a state dict, or of the one under the key ``state_dict``.

    UserError if the file is damaged, holds something else, or a pickle that names anything but
    tensors; OSError if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            load = _zip if zipfile.is_zipfile(file) else _legacy
            file.seek(0)
            saved, content = load(file)
            return _arrays(saved, content)
    except _Refused as name:
        raise UserError(
            f"{path}: its pickle names {name}, which is no tensor; nothing of it was run; save the"
            " network's state_dict() alone"
        )
    except OSError:
        raise
    except Exception:  # a pickle that is cut or changed ends in many types
        raise UserError(f"{path}: is damaged, or is no PyTorch file with a state dict")


def _arrays(saved: Any, content: Callable[[str], bytes]) -> Dict[str, np.ndarray]:
    state = saved.get("state_dict", saved)
    tensors = {str(name): one for name, one in state.items() if isinstance(one, _Tensor)}
    if not tensors:
        raise ValueError
    return {name: tensor.array(content(tensor.storage.key)) for name, tensor in tensors.items()}


def _zip(file):
    archive = zipfile.ZipFile(file)
    (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = pickled[: -len("data.pkl")]
    order = folder + "byteorder"  # files from before version 2.0 have none
    if order in archive.namelist() and archive.read(order) != b"little":
        raise ValueError
    saved = _Unpickler(archive.open(pickled)).load()
    return saved, lambda key: archive.read(f"{folder}data/{key}")


def _legacy(file):
    magic, _, _ = (_Unpickler(file).load() for _ in range(3))  # version; sizes of C's types
    if magic != _LEGACY_MAGIC:
        raise ValueError
    unpickler = _Unpickler(file)
    saved = unpickler.load()
    content = {}
    for key in _Unpickler(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        content[key] = file.read(max(0, count) * unpickler.storages[key].dtype.itemsize)
    return saved, content.__getitem__
