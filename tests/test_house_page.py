"""docs/house.md is true: its paths and names exist, and every product file is on its map."""

import glob
import os
import re

from conftest import ROOT

PEERS = ("nanoGPT", "big_vision", "timm", "ffcv-imagenet")
FILE = r"[\w./-]+\.(?:py|h|cc|md|txt|json)\b"


def own_lines():
    """The page's lines about this project: without those about other repositories."""
    with open(os.path.join(ROOT, "docs", "house.md"), encoding="utf-8") as file:
        items = re.split(r"\n(?=- |\n)", file.read())
    return "\n".join(item for item in items if not item.startswith(tuple(f"- {p}:" for p in PEERS)))


def text(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def defines(path, name):
    """Whether a file defines each part of ``Class.method``, a function, a CONSTANT or a struct."""
    form = (
        r"^\s*(?:def|class) {0}\b|^{0}\b *[:=]" if path.endswith(".py") else r"^(?:struct )?{0}\b"
    )
    return all(re.search(form.format(part), text(path), re.MULTILINE) for part in name.split("."))


def test_every_path_on_the_page_exists():
    files = re.findall(rf"(?<![\w./-]){FILE}", own_lines())
    folders = re.findall(r"(?<![\w./-])(?:[a-z]+/)+(?![\w.])", own_lines())
    named = {path for path in (*files, *folders) if not path.startswith(("PREFIX-", "X-"))}
    assert len(named) > 100
    assert [path for path in named if not os.path.exists(os.path.join(ROOT, path))] == []


def test_every_name_on_the_page_is_defined_in_its_file():
    named = re.findall(rf"`({FILE}):([\w.]+)`", own_lines())
    assert len(named) > 40
    assert [pair for pair in named if not defines(*pair)] == []


def test_every_product_file_is_on_the_map():
    patterns = ["*.py", "common/**/*.py", "symbols/*.py", "data/*.py", "data/*.txt", "native/*"]
    paths = [
        os.path.relpath(path, ROOT)
        for pattern in patterns
        for path in glob.glob(os.path.join(ROOT, pattern), recursive=True)
        if os.path.isfile(path) and os.path.getsize(path)  # packages have empty __init__ files
    ]
    lines = own_lines().partition("\n## The map\n")[2].splitlines()
    counts = {path: sum(line.startswith(f"{path} ") for line in lines) for path in paths}
    assert len(counts) > 90
    assert {path: count for path, count in counts.items() if count != 1} == {}


def test_each_question_is_answered_here_by_at_most_three_files():
    answers = re.findall(r"^- (?:here|an? [\w ]+, here):((?:.|\n  )*)", own_lines(), re.MULTILINE)
    assert len(answers) == 8
    for answer in answers:
        assert 1 <= len(set(re.findall(FILE, answer))) <= 3, answer
