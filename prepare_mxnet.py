"""Old MXNet code on today's Python: MXNet 1.9.1 with numpy 1.24 and later, numpy 2 included.

    import prepare_mxnet, mxnet as mx            # first in a program
    python -m prepare_mxnet script.py --flags    # a script that stays as it is

It imports MXNet and nothing else of this project; its errors are ImportErrors that name the remedy.
docs/old-mxnet-code.md says what it mends, and what it does not.
"""

import importlib.util
import os
import runpy
import sys
from types import ModuleType

if importlib.util.find_spec("mxnet") is None:
    raise ImportError(
        "mxnet: not installed for this Python; pip install --no-deps mxnet==1.9.1 (for GPUs"
        " mxnet-cu112==1.9.1), then pip install requests graphviz"
    )
if sys.version_info >= (3, 12) and importlib.util.find_spec("distutils") is None:
    raise ImportError("distutils: MXNet imports it; pip install setuptools")
try:
    import numpy as np
except ImportError as error:
    cause = str(error).strip().splitlines()[0]
    raise ImportError(
        f"numpy: cannot be imported ({cause}); pip install --force-reinstall numpy"
    ) from None

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


def _supply_numpy_names():
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


def _mend_texts():
    """Have MXNet write parameters as it does with numpy 1: numpy 2 makes (np.int64(2),) of (2,)."""
    for module in ("_ctypes.ndarray", "_ctypes.symbol", "symbol.symbol", "io.io", "kvstore.base"):
        # MXNet calls str(value) there; a name of the module goes before the built-in one.
        importlib.import_module(f"mxnet.{module}").str = _text


def _text(value):
    text = str(value)
    return _repr(value) if "np." in text and isinstance(value, (tuple, list, dict)) else text


def _repr(value):
    if isinstance(value, (np.number, np.bool_)):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_repr(k)}: {_repr(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_repr, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_repr, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def _mend_recordio():
    """Have MXNet's ``pack`` and ``pack_img`` call ``tobytes``: numpy 2.3 has no ``tostring``."""
    for function in (mx.recordio.pack, mx.recordio.pack_img):
        code = function.__code__
        names = ("tobytes" if name == "tostring" else name for name in code.co_names)
        function.__code__ = code.replace(co_names=tuple(names))


def _array(self, dtype=None, copy=None):
    """A numpy array of an NDArray's values, for ``numpy.asarray`` and numpy's functions."""
    if copy is False:
        raise ValueError("an NDArray's values are in MXNet's memory: numpy needs a copy")
    values = self.asnumpy()
    return values if dtype is None else values.astype(dtype, copy=False)


_supply_numpy_names()
import mxnet as mx  # noqa: E402  numpy's names come first

_mend_recordio()
_mend_texts()
mx.nd.NDArray.__array__ = _array

if __name__ == "__main__":
    if len(sys.argv) < 2 or not os.path.isfile(sys.argv[1]):
        print("usage: python -m prepare_mxnet SCRIPT.py [ARGUMENT ...]", file=sys.stderr)
        sys.exit(2)
    del sys.argv[0]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
