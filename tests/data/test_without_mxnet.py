"""Packing and checking records need no MXNet: it is neither imported nor prepared for."""

import os

import pytest
from conftest import run_script
from pictures import KINDS, write_tree

ROOMS = ("data", "common/io", "common/records")


@pytest.fixture
def no_mxnet(tmp_path):
    """A folder for PYTHONPATH that makes the import of MXNet, and its preparation, end Python.

    The worker processes inherit it.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'mxnet' or name.startswith('common.runtime'):\n"
        "            sys.exit(f'{name} was imported')\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    return f"{tmp_path}:{os.getcwd()}"


def modules():
    for room in ROOMS:
        for name in sorted(os.listdir(room)):
            if name.endswith(".py") and name != "__init__.py":
                yield f"{room}/{name[:-3]}".replace("/", ".")


def test_the_guard_refuses_mxnet(no_mxnet):
    for module in ("mxnet", "common.runtime.bootstrap"):
        result = run_script("-c", f"import {module}", PYTHONPATH=no_mxnet)
        assert result.returncode == 1 and f"{module.split('.')[0]}" in result.stderr


def test_no_module_of_these_rooms_imports_it(no_mxnet):
    names = list(modules())
    assert "data.folder" in names and "common.records.scan" in names and "common.io.files" in names
    result = run_script("-c", f"import {', '.join(names)}", PYTHONPATH=no_mxnet)
    assert result.returncode == 0, result.stderr


def test_a_folder_is_packed_and_checked(no_mxnet, tmp_path):
    tree = write_tree(
        tmp_path / "tree", {f"{c}/{name}": KINDS[name] for c in "ab" for name in KINDS}
    )
    packed = run_script("-m", "data.folder", tree, tmp_path / "x", PYTHONPATH=no_mxnet)
    assert packed.returncode == 0, packed.stderr
    checked = run_script("-m", "data.check", tmp_path / "x.rec", "--decode", PYTHONPATH=no_mxnet)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{2 * len(KINDS)} records good, 0 faulty" in checked.stdout


def test_the_workers_have_the_guard_too(no_mxnet):
    code = (
        "from data import workers\n"
        "import importlib\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        list(workers.run(importlib.import_module, ['mxnet'], 1, '--workers', str))\n"
        "    except Exception as error:\n"
        "        print('refused:', error)\n"
    )
    result = run_script("-c", code, PYTHONPATH=no_mxnet)
    assert "refused: a process died" in result.stdout, result.stdout + result.stderr
