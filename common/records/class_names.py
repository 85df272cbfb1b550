"""Label files -> class names in label order: a name a line, or as other tools write them."""

import ast
import collections
import json
import os
import re
from typing import Dict, List, Optional, Union

import numpy as np

from common.cli import UserError

_WNID, _NUMBER, _NAME = r"(?P<wnid>n\d{8})", r"(?P<number>\d+)", r"(?P<name>\S.*?)"
_THEN, _COMMA = r"(?:\s*[,;:\t]\s*|\s+)", r"\s*[,;\t]\s*"
# The forms of a line. The first one that all lines have is taken.
_FORMS = (
    _WNID + _THEN + _NUMBER + _THEN + _NAME,  # the development kit's map_clsloc.txt
    _NUMBER + _THEN + _WNID + _THEN + _NAME,  # Keras's imagenet_class_index.json
    _WNID + _THEN + _NAME,  # Caffe's synset_words.txt
    _NUMBER + _THEN + _NAME,
    _NAME + _COMMA + _NUMBER,  # torchvision's class_to_idx
    _NAME + _COMMA + _WNID,
    _WNID,
    _NAME,
)
_HEADER = re.compile(r".*[,;:\t].*")  # of a CSV or YAML file, above lines that carry numbers or ids
_NO_NAME = re.compile(r"""[\[\]{}"'].*|- .*|.*[\[{,;:]|n\d{8}\b.*|\d+\s*[,;:\t].*""")
_SEVERAL = re.compile(r".*(\t|[,;]\S).*")  # columns
_BACKGROUND = ("background", "dummy")  # TensorFlow's class 0, which other networks do not have


def _read(path):
    """The lines without the blank ones at the end, and whether they are a text file's own.

    Of a JSON or Python list or dictionary, an entry is a line and its parts are separated by tabs.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:  # Windows' editors write a mark first
            text = file.read().rstrip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; write a class name a line")
    entries = _entries(text)
    lines = entries or [line.rstrip("\r") for line in text.split("\n")]
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UserError(f"{path}: line {number} is empty; write a class name a line")
    return lines, not entries


def _entries(text):
    if not text.lstrip().startswith(("[", "{")):
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(text.strip())
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return []  # the lines are names in brackets, or are refused
    if isinstance(found, set):  # it has no order
        return []
    if isinstance(found, dict):
        found = [[key, *_parts(value)] for key, value in found.items()]
    return ["\t".join(" ".join(str(part).split()) for part in _parts(entry)) for entry in found]


def _parts(entry):
    if isinstance(entry, dict):
        return list(entry.values())
    return entry if isinstance(entry, (list, tuple)) else [entry]


def check_distinct(path: str, names: List[str]) -> None:
    """Refuse names that stand twice in the label file ``path``."""
    seen: Dict[str, int] = {}
    for number, name in enumerate(names):
        if name in seen:
            hint = "; data/imagenet_classes.txt has ImageNet's so" if len(names) >= 1000 else ""
            raise UserError(
                f"{path}: has {name} twice, as class {seen[name]} and {number}; give each class a"
                f" name of its own{hint}"
            )
        seen[name] = number


def read_plain(path: str) -> List[str]:
    """The names in a label file that has one a line, whatever they look like: X-classes.txt.

    UserError if it is not text, a name is empty or stands twice, or WordNet ids are out of order.
    """
    names, is_plain = _read(path)
    if not is_plain:
        return read_names(path)
    check_distinct(path, names)
    wnids = [match[1] for match in (re.match(_WNID, name) for name in names) if match]
    if len(wnids) == len(names) and wnids != sorted(wnids):
        raise UserError(f"{path}: its WordNet ids are not in order, as labels are; sort the lines")
    return names


def read_names(path: str, count: Optional[int] = None) -> List[str]:
    """The class names in a label file of any maker, in label order.

    Lines with WordNet ids are put in the order of these, as ImageNet's labels are; else lines with
    numbers in that of the numbers. Of synonyms ("tench, Tinca tinca") the first is taken. There
    must be ``count`` names, but for a background class before them, which is left out. UserError if
    form or order are unclear, or a name is missing or stands twice.
    """
    names = [_name(path, row) for row in _in_order(path, _parse(_read(path)[0]))]
    if len(names) - 1 == count and names[0].lower() in _BACKGROUND:
        del names[0]
    if count not in (None, len(names)):
        raise UserError(f"{path}: has {len(names)} names, but the network has {count} classes")
    check_distinct(path, names)
    return names


def _parse(lines):
    """{"wnid": ..., "number": ..., "name": ...} of each line; what a line lacks is left out."""
    for form in _FORMS:
        rows = [re.fullmatch(form, line.strip()) for line in lines]
        if len(rows) > 1 and not rows[0] and form != _NAME and _HEADER.fullmatch(lines[0]):
            del rows[0]
        if all(rows):
            return [row.groupdict() for row in rows]
    raise AssertionError("the last form takes any line that is not blank")


def _in_order(path, rows):
    numbers = [int(row.get("number", -1)) for row in rows]
    counted = sorted(numbers) == list(range(len(rows)))
    by_number = sorted(rows, key=lambda row: int(row.get("number", 0)))
    if "wnid" not in rows[0]:
        if "number" in rows[0] and not counted:
            raise UserError(
                f"{path}: has {len(rows)} names with numbers from {min(numbers)} to {max(numbers)};"
                f" number them from 0 to {len(rows) - 1}, or write the names alone, in label order"
            )
        return by_number
    by_wnid = sorted(rows, key=lambda row: row["wnid"])
    check_distinct(path, [row["wnid"] for row in by_wnid])
    if counted and by_number != by_wnid:
        raise UserError(
            f"{path}: its numbers and its WordNet ids give different orders; leave out one of them"
        )
    names = collections.Counter(_name(path, row) for row in rows)
    for row in by_wnid:  # ImageNet has two cranes and two maillots
        if names[_name(path, row)] > 1:
            row["name"] = f"{_name(path, row)} ({row['wnid']})"
    return by_wnid


def _name(path, row):
    """The name in a row of :func:`_parse`; the id where it has none."""
    text = row.get("name", row.get("wnid", ""))
    name = text.split(", ")[0]
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        name = text[1:-1].split(", ")[0].strip()
    elif "name" in row and (_NO_NAME.fullmatch(text) or _SEVERAL.fullmatch(text)):
        raise UserError(
            f"{path}: {text[:60]!r} is no class name; write one a line, alone or after its number"
        )
    if not name:
        raise UserError(f"{path}: a name is empty; write a class name a line")
    return name.replace("_", " ") if "wnid" in row else name


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
