"""Class numbers and the names of classes (``X-classes.txt``) of a record file."""

import os
from typing import List, Optional, Union

import numpy as np

from .class_names import read_plain


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
    """The names in the ``-classes.txt`` of the record file ``path``; None if it has none."""
    names = class_names_path(path)
    return read_plain(names) if os.path.exists(names) else None
