"""CONTRIBUTING.md: each worked example is written into a clone, and its command runs there."""

import os
import re
import shlex
import shutil

import pytest
from conftest import ROOT, run_script

with open(os.path.join(ROOT, "CONTRIBUTING.md"), encoding="utf-8") as file:
    PAGE = file.read()


def example(title):
    """The first block of code of a section, the file that it is for, and its command's words."""
    section = PAGE.split(f"\n## Add {title}\n")[1].split("\n## ")[0]
    path = re.search(r"`(\w+/[\w/]+\.(?:py|h))", section)[1]
    code = re.search(r"```\w+\n(.*?)```", section, re.DOTALL)[1]
    command = re.search(r"^    python (.*)$", section.replace("\\\n", " "), re.MULTILINE)[1]
    return path, code, shlex.split(command)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    for room in ("common", "data", "native", "symbols"):
        shutil.copytree(os.path.join(ROOT, room), folder / room)
    for script in ("train_imagenet.py", "prepare_mxnet.py"):
        shutil.copy(os.path.join(ROOT, script), folder)
    for title in ("a network", "a data set"):
        path, code, _ = example(title)
        (folder / path).write_text(code)
    return folder


def run(clone, command):
    said = run_script(*command, cwd=clone, PYTHONPATH=str(clone))
    assert said.returncode == 0, said.stderr
    return said.stdout


def test_a_network_a_data_set_and_a_recipe_train_together(clone):
    path, code, _ = example("a recipe")
    recipes = (clone / path).read_text()
    code = code.replace("RECIPES_OF_LENET", 'RECIPES["lenet", "mnist"].settings')
    (clone / path).write_text(f"{recipes}\n\nRECIPES.update({{\n{code}}})\n")
    assert "tiny on an image of 1x32x32" in run(clone, example("a network")[2])
    run(clone, example("a data set")[2])
    said = run(clone, example("a recipe")[2])
    assert "recipe for stripes: an example; expect above 95% top-1" in " ".join(said.split())
    reached = re.findall(r"val loss .*top-1 ([\d.]+)%", said)
    assert float(reached[-1]) > 95


@pytest.mark.slow  # all operators are compiled
def test_an_operator_computes(clone, tmp_path):
    path, code, command = example("an operator")
    (clone / path).write_text(code)
    source = clone / "native" / "ops.cc"
    source.write_text(source.read_text().replace("#include", '#include "square.h"\n#include', 1))
    said = run_script(*command, cwd=clone, PYTHONPATH=str(clone), XDG_CACHE_HOME=str(tmp_path))
    assert "[9.]" in said.stdout, said.stderr
