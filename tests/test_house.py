"""The house keeps its order: who imports whom, how long code is, what is documented and typed."""

import ast
import glob
import os
import re

import pytest
from conftest import ROOT

FLOORS = [
    ["streams", "version"],  # files, as cli is
    ["cli"],
    ["io"],
    ["runtime"],
    ["records"],
    ["graph"],
    ["checkpoint", "input", "draw"],
    ["evaluate"],
    ["train", "page"],
    ["convert"],
    ["study"],
]
ROOMS = [name for floor in FLOORS[2:] for name in floor]
SCRIPT = len(FLOORS)  # the floor of the scripts, above all rooms
DATA_TAKES = {"common.cli", "common.io", "common.records"}
THE_IMPORT = {  # for all files
    "mxnet": "prepare_mxnet.py",
    "prepare_mxnet": "common/runtime/mxnet.py",
    "cv2": "common/io/opencv.py",
    "matplotlib": "common/draw/style.py",
}
LONGEST_FUNCTION, LONGEST_FILE = 40, 300  # lines

# What breaks a rule today. A test fails when a file joins its list, and when one can leave it.
NOT_YET = {
    "direction": set(),
    "mxnet": set(),
    "prepare_mxnet": set(),
    "cv2": set(),
    "matplotlib": set(),
    "long file": set(),
    "long function": set(),
    "untyped": set(),
    "undocumented": set(),
}


def product():
    """The path of each Python file of the product, relative to the root, and its syntax tree."""
    patterns = ["*.py", "common/**/*.py", "data/**/*.py", "symbols/**/*.py"]
    paths = [
        p for pattern in patterns for p in glob.glob(os.path.join(ROOT, pattern), recursive=True)
    ]
    for path in sorted(paths):
        with open(path, encoding="utf-8") as file:
            yield os.path.relpath(path, ROOT), ast.parse(file.read())


FILES = dict(product())


def imports(path, tree):
    """The dotted names that a file imports, relative ones made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.split("/")[: -node.level] if node.level else []
            yield from (
                ".".join(filter(None, [*above, node.module, alias.name])) for alias in node.names
            )


def room(name):
    """'common.io.files.atomic' -> 'common.io', 'data.pack' -> 'data'; None outside the product."""
    parts = name.split(".")
    if parts[0] == "common":
        return ".".join(parts[:2])
    scripts = {os.path.splitext(path)[0] for path in FILES if "/" not in path} - {"prepare_mxnet"}
    return parts[0] if parts[0] in {"data", "symbols", *scripts} else None


def may_take(path, taken):
    """Whether the file may import from the room."""
    own = room(os.path.splitext(path)[0].replace("/", "."))
    if taken in (None, own):
        return True
    if own == "data":
        return taken in DATA_TAKES
    if own == "symbols":
        return taken == "common.runtime" or (taken, path) == ("common.cli", "symbols/__main__.py")
    if not taken.startswith("common."):
        return taken == "symbols" and "/" not in path  # a script hands them to common/
    return floor(taken) < floor(own)


def floor(name):
    """The floor of a room of common/. What is in none is a script."""
    floors = (n for n, rooms in enumerate(FLOORS) if name.partition(".")[2] in rooms)
    return next(floors, SCRIPT)


def functions(tree, within=True):
    """Each function of a file, and whether it is public: no name on the way to it begins with _."""
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, (ast.FunctionDef, ast.ClassDef))
        public = within and not (named and node.name.startswith("_"))
        is_function = isinstance(node, ast.FunctionDef)
        if is_function:
            yield node, public
        yield from functions(node, public and not is_function)


def is_typed(function):
    given = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    typed = (arg.annotation for arg in given if arg.arg not in ("self", "cls"))
    return function.returns is not None and all(typed)


def breaking(rule):
    """What breaks a rule, as it is written in NOT_YET."""
    for path, tree in FILES.items():
        if rule == "direction":
            taken = {room(name) for name in imports(path, tree)}
            yield from (f"{path} takes {one}" for one in taken if not may_take(path, one))
        elif rule in THE_IMPORT:
            if path != THE_IMPORT[rule] and any(
                n.split(".")[0] == rule for n in imports(path, tree)
            ):
                yield path
        elif rule == "long file":
            with open(os.path.join(ROOT, path), encoding="utf-8") as file:
                if len(file.readlines()) > LONGEST_FILE:
                    yield path
        else:
            yield from (path for f, public in functions(tree) if breaks(rule, f, public))


def breaks(rule, function, public):
    if rule == "long function":
        return function.end_lineno - function.lineno >= LONGEST_FUNCTION
    return public and not (
        ast.get_docstring(function) if rule == "undocumented" else is_typed(function)
    )


@pytest.mark.parametrize("rule", NOT_YET)
def test_each_rule_is_broken_by_nothing_but_what_is_listed(rule):
    assert set(breaking(rule)) == NOT_YET[rule]


def test_the_packages_of_common_have_empty_init_files():
    paths = [path for path in FILES if path.startswith("common/") and path.endswith("__init__.py")]
    assert len(paths) == len(ROOMS) + 1
    assert [path for path in paths if os.path.getsize(os.path.join(ROOT, path))] == []


def test_all_files_name_the_same_versions_of_python():
    texts = {}
    for path in ("setup.cfg", "Makefile", "README.md"):
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            texts[path] = file.read()
    oldest, beyond = re.search(
        r"python_requires = >=3\.(\d+), <3\.(\d+)", texts["setup.cfg"]
    ).groups()
    newest = int(beyond) - 1
    assert f"(3, {oldest}) <= v <= (3, {newest})" in texts["Makefile"]
    assert f"3.{oldest} to 3.{newest}: make PYTHON=python3.{newest}" in texts["Makefile"]
    assert f"on Python 3.{oldest} to 3.{newest}" in texts["README.md"]
