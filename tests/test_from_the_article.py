"""docs/from-the-article.md: its listing trains, its commands run, its tables hold."""

import json
import os
import re
import shlex
import shutil

import pytest
from conftest import ROOT, bands, run_script, write_records

import symbols
from symbols import summary

with open(os.path.join(ROOT, "docs", "from-the-article.md"), encoding="utf-8") as file:
    PAGE = file.read()
LISTING = PAGE.split("```python\n")[1].split("```")[0]
COMMANDS = [
    shlex.split(line)
    for line in re.findall(r"^    (python .*)$", PAGE.replace("\\\n", " "), re.MULTILINE)
]


def rows(title):
    """The cells of the table's rows in the section of that title."""
    lines = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0].splitlines()
    return [
        [cell.strip() for cell in line[1:-1].split("|")]
        for line in lines
        if line.startswith("| ") and not line.startswith(("| operator", "| layer", "| open"))
    ]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The project with the listing in symbols/article.py, and a CIFAR-10 of 40 images."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(os.path.join(ROOT, "symbols"), folder / "symbols")
    for room in ("common", "native"):
        os.symlink(os.path.join(ROOT, room), folder / room)
    shutil.copy(os.path.join(ROOT, "train_imagenet.py"), folder)
    shutil.copy(os.path.join(ROOT, "prepare_mxnet.py"), folder)
    (folder / "symbols" / "article.py").write_text(LISTING)
    (folder / "datasets" / "cifar10").mkdir(parents=True)
    for split in ("train", "val"):
        write_records(folder / "datasets" / "cifar10" / split, *bands(40, seed=1, channels=3))
    return folder


def test_the_commands_run_in_their_order(clone):
    layers, synthetic, pack, training = COMMANDS
    said = run_script(*layers[1:], cwd=clone, PYTHONPATH=str(clone))
    assert said.returncode == 0, said.stderr
    assert "article on an image of 3x227x227: 62,378,344 parameters" in said.stdout
    assert "The article prints 60,924,656, 30,000 short" in said.stdout
    assert pack == ["python", "-m", "data.cifar10", "--out", "datasets/cifar10"]
    for command in (synthetic, [*training, "--num-epochs", "1"]):
        said = run_script(*command[1:], cwd=clone, PYTHONPATH=str(clone))
        assert said.returncode == 0 and "train loss" in said.stdout, said.stderr
    with open(clone / "checkpoints" / "article-symbol.json") as file:
        names = [node["name"] for node in json.load(file)["nodes"]]
    assert names[:3] == ["data", "conv1_weight", "conv1_bias"]


def golden():
    with open(os.path.join(ROOT, "tests", "golden", "alexnet-graph.json")) as file:
        return [node for node in json.load(file)["nodes"] if node["op"] != "null"]


def test_the_listing_is_the_articles_graph():
    made = {}
    exec(LISTING, made)
    assert "import mxnet as mx" in LISTING
    with symbols.own.own_scope():
        nodes = json.loads(made["get_symbol"]().tojson())["nodes"]
    operators = [node for node in nodes if node["op"] != "null"]
    assert [(n["op"], n["name"], n.get("attrs")) for n in operators] == [
        (n["op"], n["name"], n.get("attrs")) for n in golden()
    ]


def test_the_table_has_each_call_of_the_listing():
    found = [(operator, name.strip("()"), said) for operator, name, said, _ in rows("Call by call")]
    wanted = [
        (
            node["op"],
            node["name"],
            ", ".join(f"{key} {value}" for key, value in sorted(node.get("attrs", {}).items())),
        )
        for node in golden()
    ]
    assert found == wanted
    for *_, where in rows("Call by call"):
        path, function = where.strip("`").split(":")
        with open(os.path.join(ROOT, "symbols", path)) as file:
            assert f"def {function}(" in file.read()


def test_the_counts_are_those_of_the_program():
    shape = symbols.IMAGE_SHAPES["alexnet"]
    one = {layer.name: layer for layer in summary.layers(symbols.get_symbol("alexnet"), shape)}
    two = {layer.name: layer for layer in summary.layers(symbols.get_symbol("alexnet2012"), shape)}
    *layers, total = rows("The article's table")
    sums = [0, 0, 0]
    for name, row, *counts in layers:
        counts = [int(count.replace(",", "")) for count in counts]
        assert counts == [two[name].weights, one[name].weights, one[name].neurons]
        assert summary.ARTICLE[name] == (row, counts[2], counts[0])
        sums = [a + b for a, b in zip(sums, counts)]
    assert [f"{n:,}" for n in sums] == total[2:]
    assert f"{summary.ARTICLE_PRINTED_WEIGHTS:,}" in PAGE and f"{sums[1] - sums[0]:,}" in PAGE
