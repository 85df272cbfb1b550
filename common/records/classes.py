"""Class numbers and the names of classes (``X-classes.txt``) of a record file."""

import os
from typing import List, Optional, Union

import numpy as np

from common.cli import UserError


def is_class(
    labels: Union[float, np.ndarray], num_classes: Optional[int] = None
) -> Union[bool, np.ndarray]:
    """Whether a label, or each of an array of them, is a class number, 0 to ``num_classes`` - 1."""
    limit = np.inf if num_classes is None else num_classes
    return (labels >= 0) & (labels < limit) & (labels == np.floor(labels))


def class_names_path(path: str) -> str:
    """'X.rec' -> 'X-classes.txt'."""
    return os.path.splitext(path)[0] + "-classes.txt"


def read_class_names(path: str) -> Optional[List[str]]:
    """The names in the ``-classes.txt`` of the record file ``path``; None if it has none.

    Raises:
        UserError: it is not text, or a name is empty or stands there twice.
    """
    names = class_names_path(path)
    if not os.path.exists(names):
        return None
    try:
        with open(names, encoding="utf-8-sig") as file:  # Windows' editors write a mark first
            found = file.read().rstrip("\r\n").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{names}: is not UTF-8 text; write a class name a line")
    found = [name.rstrip("\r") for name in found]
    for number, name in enumerate(found):
        if not name.strip():
            raise UserError(f"{names}: line {number + 1} is empty; write a class name a line")
        if name in found[:number]:
            raise UserError(f"{names}: has {name} twice; give each class a name of its own")
    return found
