"""The weight of each class in the loss: ``--class-weights balanced|FILE``."""

import math
from typing import List, Optional

import numpy as np

from common.cli import UserError
from common.records.scan import Records


def class_weights(how: Optional[str], records: Optional[Records], count: int) -> Optional[list]:
    """How much an image of each of ``count`` classes weighs; None: all the same.

    ``how`` is "balanced" (classes weigh the same together, an image 1 on average) or a file, which
    has to give each class a weight.
    """
    if how is None:
        return None
    if records is None:
        raise UserError("--class-weights: needs --data-train, whose classes it is about")
    if how != "balanced":
        return _read(how, records.classes or [str(label) for label in range(count)])
    images = np.bincount(records.labels.astype(int), minlength=count)
    mean = len(records) / np.count_nonzero(images)
    return (mean / np.maximum(images, 1)).tolist()


def _read(path, names: List[str]) -> List[float]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = [line for line in file.read().splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"--class-weights {path}: {error.strerror}; give balanced or a file")
    except UnicodeDecodeError:
        raise UserError(f"--class-weights {path}: is not UTF-8 text")
    found = {}
    for line in lines:
        name, weight = _entry(path, line)
        if name in found:
            raise UserError(f"--class-weights {path}: {name} is listed twice")
        if name not in names:
            said = f"{name} is not one of the classes, such as {names[0]}"
            raise UserError(f"--class-weights {path}: {said}")
        found[name] = weight
    missing = next((name for name in names if name not in found), None)
    if missing is not None:
        raise UserError(f"--class-weights {path}: {missing} is missing; give each class a line")
    if not any(found.values()):
        raise UserError(f"--class-weights {path}: all weights are 0, so nothing would be learnt")
    return [found[name] for name in names]


def _entry(path, line):
    name, _, text = line.strip().replace("\t", " ").rpartition(" ")
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not name or not 0 <= weight < math.inf:
        raise UserError(
            f"--class-weights {path}: '{line.strip()[:60]}' is not a class and a weight of 0 or"
            " more, such as 'cat 2.5'"
        )
    return name.strip(), weight
