"""What pip installs: dependencies and prepare_mxnet, and no package that others may have, too."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT, run_script
from pictures import photo
from small_checkpoints import save_lenet

from common.io.opencv import cv2
from common.version import VERSION

NAMES = ("common", "data", "symbols", "native", "score", "predict")


@pytest.fixture
def foreign(tmp_path):
    """A folder with packages of other people's, of the names that this project has."""
    for name in NAMES:
        (tmp_path / "foreign" / name).mkdir(parents=True)
        (tmp_path / "foreign" / name / "__init__.py").write_text("whose = 'theirs'\n")
    return tmp_path / "foreign"


@pytest.mark.slow
def test_a_wheel_puts_nothing_in_the_way_of_others(foreign, tmp_path):
    """Built and installed by pip, in environments that have nothing else; it asks the index."""
    for folder in ("build", "use"):
        subprocess.run([sys.executable, "-m", "venv", tmp_path / folder], check=True)
    source = tmp_path / "source"  # pip leaves a folder build where it builds
    (source / "common").mkdir(parents=True)
    for name in (
        "setup.cfg",
        "pyproject.toml",
        "README.md",
        "prepare_mxnet.py",
        "common/version.py",
    ):
        shutil.copy(os.path.join(ROOT, name), source / name)
    pip = [tmp_path / "build/bin/python", "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("alexnet_mxnet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"prepare_mxnet.py", f"alexnet_mxnet-{VERSION}.dist-info"}
    python = tmp_path / "use/bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    code = "import importlib, importlib.util; assert importlib.util.find_spec('prepare_mxnet')\n"
    code += f"assert {{importlib.import_module(n).whose for n in {NAMES}}} == {{'theirs'}}"
    where = {"PATH": os.environ["PATH"], "PYTHONPATH": str(foreign)}
    subprocess.run([python, "-c", code], check=True, cwd=tmp_path, env=where)


def test_the_commands_run_from_any_folder_beside_packages_of_their_names(foreign, tmp_path):
    save_lenet(str(tmp_path / "lenet"), ["ant", "bee", "cat"])
    cv2.imwrite(str(tmp_path / "a.png"), photo(40, 40))
    command = [os.path.join(ROOT, "predict.py"), "--model-prefix", "lenet", "--load-epoch", 1]
    said = run_script(*command, "a.png", cwd=tmp_path, PYTHONPATH=str(foreign))
    assert said.returncode == 0 and "%  " in said.stdout, said.stderr
    said = run_script("-m", "data.folder", "--version", PYTHONPATH=str(foreign))
    assert said.stdout == f"alexnet-mxnet {VERSION}\n", said.stderr


PARALLEL = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from common.evaluate.classifier import Classifier

def name(path):
    return Classifier("lenet", 1).predict([path])[0][0][0]

if __name__ == "__main__":
    classifier = Classifier("lenet", 1)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda path: classifier.predict([path])[0][0][0], ["a.png"] * 2))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        found += processes.map(name, ["a.png"])
    import data
    print(len(set(found)), data.__file__.startswith(sys.argv[1]))
"""


def test_the_library_runs_from_another_folder_with_the_clone_in_the_path(foreign, tmp_path):
    save_lenet(str(tmp_path / "lenet"), ["ant", "bee", "cat"])
    cv2.imwrite(str(tmp_path / "a.png"), photo(40, 40))
    (tmp_path / "job.py").write_text(PARALLEL)
    path = os.pathsep.join([ROOT, str(foreign)])
    said = run_script("job.py", ROOT, cwd=tmp_path, PYTHONPATH=path)
    assert said.stdout == "1 True\n", said.stderr
