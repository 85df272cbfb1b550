"""Lists of pictures -> pictures by class: MXNet's X.lst, or CSV with a path and a label a line."""

import csv
import os
import unicodedata
from typing import Dict, List, Tuple

from common.cli import UserError
from common.records.class_names import is_class

_LIMIT = 1000000  # classes


def read_list(path: str, root: str) -> Tuple[Dict[str, List[str]], bool]:
    """The pictures that a list names.

    A line of X.lst is ``number TAB label TAB path``, of any other file ``path,label``; a header is
    left out. Paths start from the folder ``root``. UserError for a line of another form, a label
    that is no class, a picture that is listed twice, or if the first picture is not there.

    It gives class name -> paths, in label order, and whether the labels are numbers. Numbers stay
    as they are, so that "0", "1", ... may have no picture; names are sorted.
    """
    rows = _rows(path)
    first = os.path.join(root, rows[0][1])
    if not os.path.isfile(first) and not os.path.splitext(first)[1] and rows[1:]:
        del rows[0]  # the header
        first = os.path.join(root, rows[0][1])
    if not os.path.isfile(first):
        raise UserError(f"{path}: there is no {first}; its paths start from --root {root or '.'}")
    seen = set()
    for number, name, _ in rows:
        if name in seen:
            raise UserError(f"{path}: line {number}: {name} is on an earlier line already")
        seen.add(name)
    numbers = _numbers(path, rows)
    names = list(map(str, numbers)) or [label for _, _, label in rows]
    classes = map(str, range(max(numbers) + 1)) if numbers else sorted(set(names))
    images: Dict[str, List[str]] = {name: [] for name in classes}
    for name, (_, file, _) in zip(names, rows):
        images[name].append(os.path.join(root, file))
    return images, bool(numbers)


def _rows(path):
    """[(line number, path of the picture, label)]"""
    is_lst = path.endswith(".lst")
    form = "number, label and path, separated by tabs" if is_lst else "path,label"
    style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_lst else {}
    rows = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, **style)
            for row in filter(None, reader):
                if len(row) != 2 + is_lst:
                    raise UserError(
                        f"{path}: line {reader.line_num} has {len(row)} columns; needed: {form}"
                    )
                name, label = row[:0:-1] if is_lst else row
                rows.append((reader.line_num, name, unicodedata.normalize("NFC", label.strip())))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as lines of text ({error}); needed: {form}")
    if not rows:
        raise UserError(f"{path}: lists no picture; needed on each line: {form}")
    for number, name, label in rows:
        if not name or label.splitlines() != [label]:
            raise UserError(f"{path}: line {number} lacks a path, or a label of one line")
    return rows


def _numbers(path, rows):
    """The labels as numbers; [] if one is a name."""
    try:
        numbers = [float(label) for _, _, label in rows]
    except ValueError:
        return []
    for (number, _, label), value in zip(rows, numbers):
        if not is_class(value, _LIMIT):
            raise UserError(f"{path}: line {number}: {label} is no class number: 0, 1, ...")
    return [int(value) for value in numbers]
