"""How many single changes of the product its tests notice: make mutate

    python tests/mutate.py [--sample 200] [--seed 0] [--out mutants.jsonl]

Each change (``<`` for ``<=``, ``and`` for ``or``, another number, a call left out ...) is made in a
copy of the last commit. There the tests that stand for its file run until one fails: the file's own
test, those that import it, then those of the files that import it. native/ is not part of it. --out
keeps what was tried; the same command goes on.
"""

import argparse
import ast
import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from typing import Dict, Iterator, List, Tuple

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
LONGEST = 600  # seconds for a change; what hangs is noticed
FILES = 6  # test files for a change, at most
SWAPS = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div,
    ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
}  # fmt: skip

Site = Tuple[str, int, int]  # a file, a node's place in it, which of the node's changes


def changed(node: ast.AST) -> Iterator[Tuple[str, object]]:
    """(attribute, its other value) of each single change of a node."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]]
    if isinstance(node, (ast.BoolOp, ast.BinOp)) and type(node.op) in SWAPS:
        yield "op", SWAPS[type(node.op)]()
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield "test", ast.UnaryOp(ast.Not(), node.test)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "value", not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield "value", node.value + 1
    if isinstance(node, ast.Return) and node.value is not None:
        yield "value", ast.Constant(None)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "value", ast.Constant(None)


def sites(path: str) -> Iterator[Site]:
    """Where a file can be changed."""
    for place, node in enumerate(ast.walk(parsed(path))):
        for number, _ in enumerate(changed(node)):
            yield path, place, number


def parsed(path: str) -> ast.Module:
    """A file of the tree."""
    with open(path) as file:
        return ast.parse(file.read())


def mutant(site: Site) -> Dict[str, str]:
    """A single change: where, before and after, and the whole file with it."""
    path, place, number = site
    tree = parsed(path)
    node = next(itertools.islice(ast.walk(tree), place, None))
    before = ast.unparse(node).splitlines()[0]
    setattr(node, *list(changed(node))[number])
    after = ast.unparse(node).splitlines()[0]
    where = f"{path}:{node.lineno}"
    return {"where": where, "before": before, "after": after, "source": ast.unparse(tree)}


def imports(path: str, module: str) -> bool:
    """Whether a file imports a module, by its whole name or from its own room."""
    room, _, name = module.rpartition(".")
    with open(path) as file:
        text = file.read()
    forms = [rf"from {re.escape(room)} import \(?[^)]*?\b{name}\b" if room else rf"import {name}\b"]
    if room and os.path.dirname(path) == room.replace(".", "/"):
        forms += [rf"from \.{name} import", rf"from \. import \(?[^)]*?\b{name}\b"]
    return any(re.search(form, text) for form in (rf"\b{re.escape(module)}\b", *forms))


def tests_of(path: str, tests: List[str], product: List[str]) -> List[str]:
    """The test files that stand for a file, the nearest first."""
    found: Dict[str, None] = {}
    room = _tests_room(path)
    seen = near = [path]
    while near and len(found) < FILES:
        found.update({f"{_tests_room(one)}/test_{os.path.basename(one)}": None for one in near})
        modules = [one[:-3].replace("/", ".") for one in near]
        importing = [test for test in tests if any(imports(test, module) for module in modules)]
        importing.sort(key=lambda test: os.path.dirname(test) != room)  # those of its room first
        found.update(dict.fromkeys(importing))
        near = [
            other
            for other in product
            if other not in seen and any(imports(other, module) for module in modules)
        ]
        seen = seen + near
    # what is found by name: symbols/
    found.update({test: None for test in tests if os.path.dirname(test) == room != "tests"})
    return [test for test in found if test in tests][:FILES]


def _tests_room(path):
    return os.path.join("tests", re.sub("^common/?", "", os.path.dirname(path))).rstrip("/")


def survives(change: Dict[str, str], tests: List[str]) -> bool:
    """Whether no test fails with it."""
    path = change["where"].rpartition(":")[0]
    with open(path) as file:
        original = file.read()
    try:
        with open(path, "w") as file:
            file.write(change["source"])
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        running = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return running.wait(LONGEST) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):  # a test's process may loop for ever
            os.killpg(running.pid, signal.SIGKILL)
        with open(path, "w") as file:
            file.write(original)


def main() -> None:
    """Try a sample, list the survivors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=os.path.abspath, default="mutants.jsonl")
    args = parser.parse_args()
    listed = subprocess.check_output(["git", "ls-files", "*.py"], cwd=ROOT, text=True).split()
    tests = [path for path in listed if os.path.basename(path).startswith("test_")]
    product = [path for path in listed if not re.match(r"(tests|benchmarks|docs)/", path)]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(f"git archive HEAD | tar -x -C {folder}", shell=True, check=True, cwd=ROOT)
        os.chdir(folder)
        try_sample(args, product, tests)
        os.chdir(ROOT)


def try_sample(args: argparse.Namespace, product: List[str], tests: List[str]) -> None:
    """Try changes in the copy of the tree that is the current folder; keep what became of each."""
    every = [site for path in product for site in sites(path)]
    chosen = [mutant(site) for site in random.Random(args.seed).sample(every, args.sample)]
    tried = {}
    if os.path.exists(args.out):
        with open(args.out) as file:
            tried = {(one["where"], one["after"]): one for one in map(json.loads, file)}
    for number, change in enumerate(chosen, 1):
        key = change["where"], change["after"]
        if key not in tried:
            stand = tests_of(change["where"].rpartition(":")[0], tests, product)
            lived = not stand or survives(change, stand)
            tried[key] = {**change, "source": "", "tests": stand, "survives": lived}
            with open(args.out, "a") as file:
                file.write(json.dumps(tried[key]) + "\n")
        one = tried[key]
        fate = "SURVIVES" if one["survives"] else "noticed"
        text = f"{key[0]}: {one['before']} -> {one['after']}"
        print(f"{number}/{len(chosen)} {fate} {text}", flush=True)
    lived = sum(tried[one["where"], one["after"]]["survives"] for one in chosen)
    print(f"{len(chosen) - lived} of {len(chosen)} noticed: {(1 - lived / len(chosen)):.0%}")


if __name__ == "__main__":
    main()
