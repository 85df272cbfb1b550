"""Networks of a user's own: a symbols/NAME.py with a ``get_symbol``, or a saved graph."""

import argparse
import importlib
import os
import traceback
from typing import Any, List

from common.runtime.mxnet import mx

from .scope import own_scope

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_HELPERS = ("layers", "options", "own", "scope", "summary")  # files that are no networks


def names() -> List[str]:
    """The files in symbols/ that may be networks."""
    files = [os.path.splitext(file) for file in sorted(os.listdir(_FOLDER))]
    return [n for n, end in files if end == ".py" and n[0] not in "_." and n not in _HELPERS]


def build(network: str, **options: Any) -> mx.sym.Symbol:
    """What symbols/NETWORK.py's ``get_symbol`` returns; ValueError if it cannot be trained here."""
    path = os.path.join(_FOLDER, f"{network}.py")
    try:
        with own_scope():
            symbol = importlib.import_module(f"{__package__}.{network}").get_symbol(**options)
    except Exception as error:  # whatever a user's file may raise
        said = str(error).strip().splitlines() or [""]
        raise ValueError(f"{path}{_line(error, path)}: {type(error).__name__}: {said[0]}")
    check(symbol, path)
    return symbol


def _line(error, path):
    """Where in the file it failed."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f", line {error.lineno}"
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == path]
    return f", line {lines[-1]}" if lines else ""


def graph_file(path: str) -> str:
    """An argparse type: a graph that ``Symbol.save`` has written, in place of a network's name."""
    if not path.endswith(".json"):
        raise argparse.ArgumentTypeError(f"'{path}' is no X-symbol.json")
    return path


def check(symbol: Any, path: str) -> None:
    """Raise ValueError unless ``symbol``, which is of the file ``path``, can be trained here."""
    if not isinstance(symbol, mx.sym.Symbol):
        raise ValueError(f"{path}: get_symbol returns no Symbol, but {type(symbol).__name__}")
    if symbol.list_outputs() != ["softmax_output"] or not (
        {"data", "softmax_label"} <= set(symbol.list_arguments())
    ):
        raise ValueError(
            f"{path}: the network has to read mx.sym.Variable('data') and to end in one"
            " mx.sym.SoftmaxOutput(..., name='softmax')"
        )
