"""What MXNet 1.9.1 needs of its surroundings."""

import sys

import numpy as np
import pytest
from conftest import ROOT, assert_refused, run_script

import prepare_mxnet
from common.io import cpus
from common.runtime import bootstrap


def test_mxnet_imports_trains_and_saves_with_this_numpy_and_python(tmp_path):
    body = """
import common.runtime.mxnet, mxnet as mx, numpy as np
net = mx.sym.FullyConnected(mx.sym.Variable('data'), num_hidden=2)
net = mx.sym.SoftmaxOutput(net, name='softmax')
data = mx.io.NDArrayIter(np.eye(4, dtype='f'), np.array([0, 1, 0, 1], 'f'), 2)
module = mx.mod.Module(net)
module.fit(data, num_epoch=2)
module.save_checkpoint('x', 2)
mx.model.load_checkpoint('x', 2)
mx.npx.set_np()
assert mx.np.ones(3).sum() == 3
"""
    path = tmp_path / "job.py"
    path.write_text(body)
    result = run_script(path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


LACKS = {
    "mxnet": ("import importlib.util as u; u.find_spec = lambda _: None", "mxnet: not installed"),
    "numpy": ("import sys; sys.modules['numpy'] = None", "numpy: cannot be imported"),
    "OMP_NUM_THREADS": ("import os; os.environ['OMP_NUM_THREADS'] = 'all'", "OMP_NUM_THREADS"),
    "cv2": ("import sys; sys.modules['cv2'] = None", "cv2: cannot be imported"),
}
IMPORTS = "import common.runtime.mxnet, common.io.opencv"
COMMAND = "import runpy; runpy.run_path('predict.py', run_name='__main__')"


@pytest.mark.parametrize("lacking", LACKS)
def test_what_a_command_lacks_is_one_line_with_a_remedy(lacking):
    without, words = LACKS[lacking]
    result = run_script("-c", f"{without}; {COMMAND}")
    assert_refused(result, words, "" if lacking == "OMP_NUM_THREADS" else "pip install")
    assert "make demo" not in result.stderr


@pytest.mark.parametrize("lacking", LACKS)
def test_what_a_library_lacks_is_an_import_error(lacking):
    without, words = LACKS[lacking]
    program = f"{without}\ntry:\n  {IMPORTS}\nexcept ImportError as error: print(error)"
    assert run_script("-c", program).stdout.startswith(words)


def test_names_that_numpy_removed_mean_what_they_meant(monkeypatch):
    monkeypatch.setattr(np, "trapezoid", sum, raising=False)  # numpy 2's name of trapz
    for name in (*prepare_mxnet._ALIASES, *prepare_mxnet._RENAMED, "msort"):
        monkeypatch.delattr(np, name, raising=False)
    prepare_mxnet._supply_numpy_names()
    assert np.PINF == np.Inf == -np.NINF == np.inf and np.isnan([np.NAN, np.NaN]).all()
    assert [np.copysign(1, zero) for zero in (np.PZERO, np.NZERO)] == [1, -1]
    assert (np.alltrue([0, 1]), np.sometrue([0, 1]), np.round_(1.6)) == (False, True, 2)
    assert (np.product([2, 5]), np.trapz([2, 5]), np.in1d(5, [2, 5]).all()) == (10, 7, True)
    assert np.array_equal(np.msort([[3, 1], [2, 4]]), [[2, 1], [3, 4]])


@pytest.mark.parametrize(
    "library, package", [("libgomp.so.1", "libgomp1"), ("libquadmath.so.0", "libquadmath0")]
)
def test_a_library_of_the_system_that_mxnet_lacks_is_named_with_its_package(library, package):
    command = (
        "import ctypes, numpy\nload = ctypes.CDLL\n"
        "def refuse(name, *more):\n"
        f"    if name == {library!r}: raise OSError\n"
        "    return load(name, *more)\n"
        f"ctypes.CDLL = refuse\n{COMMAND}"
    )
    words = f"{library}: not found, and MXNet needs it; apt-get install {package}"
    assert_refused(run_script("-c", command), words)


def test_a_users_own_thread_count_wins(tmp_path):
    show = "import common.runtime.mxnet, os; print(os.environ['OMP_NUM_THREADS'])"
    assert run_script("-c", show, OMP_NUM_THREADS="7").stdout == "7\n"


def test_threads_default_to_the_cpus_that_are_available():
    show = (
        "import os; os.environ.pop('OMP_NUM_THREADS', 0); import common.runtime.mxnet;"
        "print(os.environ['OMP_NUM_THREADS'])"
    )
    assert run_script("-c", show).stdout == f"{cpus.available()}\n"


@pytest.mark.parametrize("script", ["predict.py", "train_imagenet.py", "score.py"])
@pytest.mark.parametrize(
    "cause, words",
    [
        (
            "libGL.so.1: cannot open shared object file: No such file or directory",
            ["cv2: cannot be imported (libGL.so.1: cannot open", "; apt-get install libgl1\n"],
        ),
        (
            "odd",
            ["cv2: cannot be imported (odd); pip install --force-reinstall opencv-python-head"],
        ),
    ],
)
def test_an_opencv_that_cannot_be_imported_is_one_line(tmp_path, script, cause, words):
    (tmp_path / "cv2.py").write_text(f"raise ImportError({cause!r})")
    result = run_script(script, "--help", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert_refused(result, f"{script}: error: ", *words)


def test_packing_names_the_package_that_opencv_lacks(tmp_path):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open')")
    result = run_script("-m", "data.folder", "--help", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert_refused(result, "apt-get install libgl1")


def test_onnx_mapping_is_supplied_where_onnx_has_none(monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr(onnx, "mapping", None, raising=False)
    monkeypatch.setitem(sys.modules, "onnx.mapping", None)
    bootstrap.supply_onnx_mapping()
    supplied = onnx.mapping
    bootstrap.supply_onnx_mapping()  # a second export finds it there
    assert onnx.mapping is supplied is sys.modules["onnx.mapping"]
    for name in ("float32", "float16", "float64", "bool", "int8", "uint8", "int32", "int64"):
        kind = supplied.NP_TYPE_TO_TENSOR_TYPE[np.dtype(name)]
        assert kind == onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name))
        assert supplied.TENSOR_TYPE_TO_NP_TYPE[kind] == np.dtype(name)
