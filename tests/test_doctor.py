"""python -m common.doctor tells what is wrong, whatever that is."""

import os
import subprocess
import sys
import venv

import cv2
import pytest
from conftest import ROOT, run_script
from drivers import GIB

from common import doctor
from common.io import cpus
from common.runtime import cuda

WORKING = {
    "mxnet": "1.9.1",
    "features": ["CPU_SSE"],
    "computes": True,
    "native": True,
    "opencv": "4.11.0",
    "scripts": True,
}


def test_here_all_is_well():
    result = run_script("-m", "common.doctor")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if line[0] != " ")
    assert lines["MXNet"].startswith("1.9.1, C")
    assert lines["native"].startswith("operators  built, loaded; ")
    assert "GB free" in lines["cache"] and "to" not in lines
    assert f"of OpenMP, {cpus.available()} usable CPUs, " in lines["threads"]
    assert "sse4_2" in lines["CPU"] or os.uname().machine != "x86_64"
    assert lines["OpenCV"].startswith(cv2.__version__)
    assert lines["result"].startswith("usable on the CPU")
    assert len(result.stdout.splitlines()) <= 24 and result.stderr == ""


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python with no packages at all."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


def report(python, *folders, **environment):
    result = subprocess.run(
        [python, "-m", "common.doctor"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": ":".join(map(str, folders)), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines()[-1].split() == ["result", "NOT", "usable"]
    assert result.returncode == 1
    return " ".join(result.stdout.split())


def test_without_any_package_it_says_what_to_install(bare):
    said = report(bare)
    assert "numpy not installed" in said and "MXNet cannot be imported (not installed)" in said
    assert "to do mxnet: not installed" in said


@pytest.mark.parametrize(
    "package, body, words",
    [
        ("numpy", "raise ImportError('odd')", "to do numpy: cannot be imported (odd); pip install"),
        ("mxnet", "import os; os.abort()", "to do MXNet's process died of signal 6, Aborted"),
        (
            "mxnet",
            "raise OSError('libmxnet.so: cut short')",
            "to do OSError: libmxnet.so: cut short",
        ),
        ("mxnet", "import sys; print(1); sys.exit()", "result NOT usable"),
        ("mxnet", "import sys; sys.exit('no\\nreason')", "to do reason"),
        ("mxnet", "", "to do AttributeError: module 'mxnet' has no attribute 'recordio'"),
    ],
)
def test_a_broken_package_is_a_line_of_the_report(tmp_path, package, body, words):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(body)
    assert words in report(sys.executable, tmp_path)


@pytest.mark.parametrize(
    "package, body, words",
    [
        (
            "cv2",
            "raise ImportError('libGL.so.1: cannot open shared object file')",
            "to do cv2: cannot be imported (libGL.so.1: cannot open shared object file);"
            " apt-get install libgl1 result",
        ),
        (
            "tqdm",
            "raise ModuleNotFoundError(\"No module named 'tqdm'\")",
            "to do tqdm: not installed; pip install tqdm result",
        ),
    ],
)
def test_what_the_scripts_lack_is_told_where_mxnet_computes(tmp_path, package, body, words):
    (tmp_path / f"{package}.py").write_text(body)
    said = report(sys.executable, tmp_path)
    assert "MXNet 1.9.1, C" in said and words in said


@pytest.mark.parametrize(
    "module, body, words",
    [
        (
            "onnxruntime.py",
            "raise ImportError('libz.so.1: cannot open shared object file')",
            "to do onnxruntime: cannot be imported (libz.so.1: cannot open shared object file);"
            " apt-get install zlib1g",
        ),
        (
            "matplotlib/figure.py",
            "raise ImportError('odd')",
            "to do matplotlib.figure: cannot be imported (odd); pip install --force-reinstall"
            " '.[plots]'",
        ),
        (
            "nvidia/dali.py",
            "import os; os.abort()",
            "to do nvidia.dali: cannot be imported (MXNet's process died of signal 6, Aborted)",
        ),
        ("onnx.py", "__version__ = '1.2'", "extras onnx 1.2, "),
        (
            "nvidia/dali.py",
            "raise ModuleNotFoundError('no', name='nvidia')",
            "nvidia.dali not installed",
        ),
    ],
)
def test_what_only_some_flags_need_is_tried_too(tmp_path, module, body, words):
    path = tmp_path / module
    path.parent.mkdir(exist_ok=True)
    if path.parent != tmp_path:
        (path.parent / "__init__.py").write_text("")
    path.write_text(body)
    result = run_script("-m", "common.doctor", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert words in " ".join(result.stdout.split())


def test_two_builds_of_opencv_are_named(tmp_path, monkeypatch, capsys):
    for name in ("opencv-python", "opencv-contrib-python"):
        folder = tmp_path / f"{name.replace('-', '_')}-4.9.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: 4.9\n")
    monkeypatch.syspath_prepend(tmp_path)
    said = told(monkeypatch, capsys, build=False)
    assert "opencv-contrib-python 4.9, opencv-python 4.9" in said
    assert "to do pip uninstall opencv-contrib-python opencv-python" in said
    assert "then install one: they overwrite each other's files" in said


def test_an_mxnet_that_hangs_is_given_up(tmp_path, monkeypatch, capsys):
    (tmp_path / "mxnet.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_PATIENCE", 2)
    assert doctor.main() == 1
    assert "timed out after 2 seconds" in " ".join(capsys.readouterr().out.split())


def test_names_of_people_stay_out_of_it(tmp_path):
    home = tmp_path / "ada"
    (home / "mxnet").mkdir(parents=True)
    (home / "mxnet" / "__init__.py").write_text(
        f"raise OSError('{home}/libmxnet.so: cut, and /data/ada/x and {home}lace/y are not')"
    )
    said = report(sys.executable, home, HOME=str(home))
    assert f"OSError: ~/libmxnet.so: cut, and /data/USER/x and {home}lace/y are not" in said


def told(monkeypatch, capsys, build):
    """The report on one line, of a CUDA build or not, and three cards."""
    monkeypatch.setattr(cuda, "is_needed", lambda: build)
    monkeypatch.setattr(doctor, "_try_mxnet", lambda: dict(WORKING))
    assert doctor.main() == 0
    return " ".join(capsys.readouterr().out.split())


def test_each_gpu_is_told_with_why_it_cannot_be_used(machine, monkeypatch, capsys):
    machine(["Tesla T4", "NVIDIA B200", "NVIDIA L4"], free=15 * GIB)
    said = told(monkeypatch, capsys, build=True)
    assert "GPU 0 Tesla T4, compute capability 7.5, 15.0 GiB free: usable GPU 1" in said
    assert (
        "capability 10.0, 15.0 GiB free: NVIDIA B200 has compute capability 10.0, too new" in said
    )
    assert said.endswith("result usable on the CPU, and with --gpus 0,2")


def test_a_cpu_build_is_told_what_its_gpus_need(machine, monkeypatch, capsys):
    machine(["Tesla T4"])
    said = told(monkeypatch, capsys, build=False)
    assert "free: needs pip install '.[cuda]'" in said
    assert said.endswith("result usable on the CPU only")


def test_a_row_that_fails_does_not_end_the_report(monkeypatch, capsys):
    def fail():
        raise ValueError("odd")

    monkeypatch.setattr(cuda, "driver_and_cards", fail)
    said = told(monkeypatch, capsys, build=False)
    assert "gpus unknown: ValueError: odd cache" in said
