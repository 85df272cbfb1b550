"""CUDA's libraries are found, loaded before MXNet, and named where they are missing.

The promises hold for tiny libraries of the right names and, with ``make test-cuda``, for those of
mxnet-cu112 and NVIDIA. A driver without a GPU stands in for NVIDIA's.
"""

import configparser
import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, assert_refused, assert_same_arrays

from common.runtime import cuda, elf

COMPILER = os.environ.get("CXX", "g++")
pytestmark = pytest.mark.skipif(shutil.which(COMPILER) is None, reason="needs a compiler")


def build(path, source, links=()):
    """Compile C into the shared library ``path``, which is linked against the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-shared", "-fPIC", f"-Wl,-soname,{path.name}", "-Wl,--no-as-needed"]
    command = [COMPILER, *flags, "-o", path, "-x", "c", "-", "-x", "none", *links]
    subprocess.run(list(map(str, command)), input=source, text=True, check=True)
    return path


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A folder with nothing but a libcuda.so.1, which knows of no GPU."""
    folder = tmp_path_factory.mktemp("driver")
    source = Path(ROOT, "tests", "stub_driver.c").read_text()
    return build(folder / "libcuda.so.1", source).parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, driver):
    """Packages that have libraries of the right names, and an MXNet linked against them."""
    site = tmp_path_factory.mktemp("tiny")
    libraries = []
    for name, requirement in cuda.REQUIREMENTS.items():
        folder = site / "nvidia" / requirement.split()[0] / "lib"
        libraries.append(build(folder / name, f"int {function(name)}(void) {{ return 0; }}"))
    mxnet = build(site / "mxnet" / "libmxnet.so", "", [*libraries, driver / "libcuda.so.1"])
    (site / "mxnet" / "__init__.py").write_text(f"import ctypes\nctypes.CDLL('{mxnet}')\n")
    return SimpleNamespace(python=sys.executable, site=site)


def function(name):
    return "nvrtcVersion" if "nvrtc" in name else name.partition(".")[0]


@pytest.fixture(scope="module")
def real():
    """What ``pip install '.[cuda]'`` installed for the interpreter CUDA_PYTHON."""
    python = os.environ["CUDA_PYTHON"]
    command = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return SimpleNamespace(python=os.path.abspath(python), site=Path(site))


@pytest.fixture(params=["tiny", pytest.param("real", marks=pytest.mark.cuda)])
def machine(request, driver, tmp_path):
    """A copy of one of them, made of links: files can be taken away."""
    source = request.getfixturevalue(request.param)
    site = tmp_path / "site"
    for library in source.site.glob("nvidia/*/lib/*.so*"):
        link = site / library.relative_to(source.site)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(library)
    (site / "nvidia" / "__init__.py").touch()  # before the one that is installed
    (site / "mxnet").symlink_to(source.site / "mxnet")
    return SimpleNamespace(python=source.python, site=site, folders=[driver])


def run(machine, command, *more):
    """Run ``python COMMAND`` there, with no more on LD_LIBRARY_PATH than ``machine.folders``."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{machine.site}:{ROOT}",
        "LD_LIBRARY_PATH": ":".join(map(str, machine.folders)),
    }
    return subprocess.run(
        [machine.python, *map(str, (command, *more))],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def remove(machine, name):
    (library,) = machine.site.glob(f"nvidia/*/lib/{name}")
    library.unlink()
    return library


PREPARE = "from common.runtime import bootstrap; bootstrap.prepare(); import mxnet; "
SHOW = PREPARE + "print(open('/proc/self/maps').read())"


def assert_not_imported(result, *words):
    """In a program: an error with ``words``, which common/runtime/mxnet.py makes an ImportError."""
    assert result.returncode == 1, result.stderr
    line = result.stderr.splitlines()[-1] + "\n"
    assert line.startswith("common.cli.UserError: ") and all(word in line for word in words), line


def test_mxnet_imports_with_the_packages_libraries_and_no_library_path(machine):
    result = run(machine, "-c", SHOW)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in cuda.REQUIREMENTS)


@pytest.mark.parametrize("name", cuda.REQUIREMENTS)
def test_a_library_that_is_missing_is_named_with_its_package(machine, name):
    remove(machine, name)
    requirement = cuda.REQUIREMENTS[name]
    result = run(machine, "-c", SHOW)
    assert_not_imported(
        result, f"{name} is missing", f"--no-deps '{requirement.replace(' ', '')}'\n"
    )
    assert not any(other in result.stderr for other in cuda.REQUIREMENTS if other != name)


def test_all_that_are_missing_are_named(machine):
    for name in ("libcublas.so.11", "libnccl.so.2"):
        remove(machine, name)
    remedy = "'nvidia-cublas-cu11>=11.11,<12' 'nvidia-nccl-cu11>=2.13,<3'"
    words = ("libcublas.so.11 is missing", "libnccl.so.2 is missing", remedy)
    assert_not_imported(run(machine, "-c", SHOW), *words)


def test_a_package_of_another_version_is_named_with_it(machine):
    library = remove(machine, "libcudnn.so.8")
    library.with_name("libcudnn.so.9").touch()
    folder = machine.site / "nvidia_cudnn_cu11-9.10.2.21.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: nvidia-cudnn-cu11\nVersion: 9.10.2.21\n")
    words = (
        "libcudnn.so.8 is missing (nvidia-cudnn-cu11 9.10.2.21)",
        "'nvidia-cudnn-cu11>=8.9,<9'",
    )
    assert_not_imported(run(machine, "-c", SHOW), *words)


def test_a_damaged_library_is_named(machine):
    remove(machine, "libcufft.so.10").write_text("no library")
    words = ("libcufft.so.10 cannot be loaded (nvidia-cufft-cu11", "'nvidia-cufft-cu11>=10.9,<11'")
    assert_not_imported(run(machine, "-c", SHOW), *words)


def test_without_a_driver_one_line_says_so(machine):
    try:
        ctypes.CDLL("libcuda.so.1")
        pytest.skip("there is a driver")
    except OSError:
        machine.folders = []
    assert_not_imported(run(machine, "-c", SHOW), "libcuda.so.1: not found", "450.80.02")


@pytest.mark.parametrize("machine", ["tiny"], indirect=True)
@pytest.mark.parametrize("lacks", [None, "libnccl.so.2"])
def test_a_system_installation_is_used_if_it_is_complete(machine, lacks, tmp_path):
    system = tmp_path / "system"
    system.mkdir()
    for library in machine.site.glob("nvidia/*/lib/*.so*"):
        if library.name != lacks:
            shutil.copy(library, system)
    machine.folders.append(system)
    result = run(machine, "-c", SHOW)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("/nvidia/") == 0 or lacks
    assert result.stdout.count(f"{system}/") == 0 or not lacks


def test_nvrtc_is_found_by_the_name_that_cudnn_opens(machine):
    opens = PREPARE + "import ctypes; print(ctypes.CDLL('libnvrtc.so').nvrtcVersion)"
    result = run(machine, "-c", opens)
    assert result.returncode == 0, result.stderr


def test_only_a_build_for_cuda_is_given_libraries(machine, monkeypatch):
    assert not cuda.is_needed()  # the MXNet that these tests run with
    monkeypatch.syspath_prepend(machine.site)
    monkeypatch.delitem(sys.modules, "mxnet")
    assert cuda.is_needed()


def test_a_library_that_is_damaged_is_linked_against_nothing(tiny, tmp_path):
    library = tiny.site / "mxnet" / "libmxnet.so"
    assert set(cuda.REQUIREMENTS) < set(elf.needed(library))
    for length in range(0, 2000, 50):
        (tmp_path / "cut").write_bytes(library.read_bytes()[:length])
        assert elf.needed(tmp_path / "cut") == []
    assert elf.needed(__file__) == []


def test_the_extra_installs_what_is_loaded():
    setup = configparser.ConfigParser()
    setup.read(os.path.join(ROOT, "setup.cfg"))
    extra = setup["options.extras_require"]["cuda"].strip().splitlines()
    assert set(cuda.REQUIREMENTS.values()) <= set(extra)


@pytest.mark.cuda
def test_a_machine_without_a_gpu_is_no_crash(real, driver):
    machine = SimpleNamespace(python=real.python, site=real.site, folders=[driver])
    ready = "import common.runtime.mxnet, mxnet as mx; "
    count = ready + "print(mx.context.num_gpus()); mx.nd.ones(1, mx.gpu(0))"
    result = run(machine, "-c", count)
    assert result.stdout == "0\n"
    assert result.returncode == 1 and "MXNetError" in result.stderr
    result = run(machine, "train_imagenet.py", "--benchmark", "1", "--gpus", "0")
    assert_refused(result, "--gpus 0: ", "driver")
    report = run(machine, "-m", "common.doctor")
    assert report.returncode == 0 and "CUDA build" in report.stdout


@pytest.mark.cuda
def test_nccl_is_compiled_in_and_needs_gpus(real, driver):
    machine = SimpleNamespace(python=real.python, site=real.site, folders=[driver])
    show = "import common.runtime.mxnet, mxnet; print(mxnet.runtime.Features().is_enabled('NCCL'))"
    assert run(machine, "-c", show).stdout == "True\n"
    flags = ["--benchmark", "1", "--cpus", "2", "--kv-store", "nccl"]
    assert_refused(run(machine, "train_imagenet.py", *flags), "--kv-store nccl: works among GPUs")


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_it_trains_on_the_cpu_as_the_cpu_build_does(real, driver, grey, tmp_path, dtype):
    machines = {"cuda": (real.python, dtype), "cpu": (sys.executable, "float32")}
    for name, (python, chosen) in machines.items():
        machine = SimpleNamespace(python=python, site=ROOT, folders=[driver])
        flags = ["--network", "lenet", "--dataset", "mnist", "--batch-size", 16, "--num-epochs", 2]
        flags += ["--data-dtype", chosen]
        output = ["--data-train", grey.train, "--model-prefix", tmp_path / name]
        result = run(machine, "train_imagenet.py", *flags, *output, "--deterministic")
        assert result.returncode == 0, result.stderr
    assert_same_arrays(tmp_path / "cuda-0002.params", tmp_path / "cpu-0002.params")
