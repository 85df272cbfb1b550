"""The files that a host and an editor read say what the project says elsewhere."""

import os
import re

import pytest
from conftest import ROOT

from common.version import VERSION


def text(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def test_the_version_is_the_same_wherever_it_must_be_written_again():
    assert "version = attr: common.version.VERSION" in text("setup.cfg")
    assert f"\nversion: {VERSION}\n" in text("CITATION.cff")
    newest, *_ = re.findall(r"^## (\d[\d.]*)$", text("CHANGELOG.md"), re.MULTILINE)
    assert newest == VERSION


def test_the_workflow_runs_on_each_python_that_is_promised():
    oldest, beyond = re.search(
        r"python_requires = >=3\.(\d+), <3\.(\d+)", text("setup.cfg")
    ).groups()
    workflow = text(".github/workflows/test.yml")
    pythons = re.search(r"python: \[(.*)\]", workflow)[1].replace('"', "").split(", ")
    assert pythons == [f"3.{minor}" for minor in range(int(oldest), int(beyond))]
    assert "run: .ci/run" in workflow and os.access(os.path.join(ROOT, ".ci", "run"), os.X_OK)


@pytest.mark.parametrize("path", ["CHANGELOG.md", "SECURITY.md", ".github/ISSUE_TEMPLATE/bug.md"])
def test_what_these_pages_name_exists(path):
    said = text(path)
    for link in re.findall(r"\]\(([^)]+)\)", said):
        assert os.path.exists(os.path.join(ROOT, link))
    for module in re.findall(r"python -m ([\w.]+)", said):
        assert os.path.exists(os.path.join(ROOT, *module.split(".")) + ".py")


def test_what_make_test_quick_runs_exists():
    files = re.search(r"^QUICK := \$\(addprefix tests/,(.*?)\)$", text("Makefile"), re.M | re.S)[1]
    for file in files.replace("\\\n", " ").split():
        assert os.path.exists(os.path.join(ROOT, "tests", file)), file


def test_the_hook_is_make_lint():
    assert "entry: make lint" in text(".pre-commit-config.yaml")
    assert "\nlint:\n" in text("Makefile")
