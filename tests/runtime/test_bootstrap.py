"""What MXNet 1.9.1 needs of its surroundings."""

import os

import pytest
from conftest import ROOT, assert_refused, run_script

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


def test_without_mxnet_one_line_says_what_to_do(tmp_path):
    command = (
        "import importlib.util as u; u.find_spec = lambda name: None; import common.runtime.mxnet"
    )
    assert_refused(run_script("-c", command), "mxnet: not installed", "activate")


def test_a_numpy_that_cannot_be_imported_is_named():
    command = "import sys; sys.modules['numpy'] = None; import common.runtime.mxnet"
    assert_refused(run_script("-c", command), "numpy: cannot be imported", "pip install")


def test_without_openmp_one_line_names_the_package():
    command = (
        "import ctypes\ndef refuse(*a): raise OSError\nimport numpy; ctypes.CDLL = refuse\n"
        "import common.runtime.mxnet"
    )
    assert_refused(run_script("-c", command), "apt-get install libgomp1")


def test_a_users_own_thread_count_wins(tmp_path):
    show = "import common.runtime.mxnet, os; print(os.environ['OMP_NUM_THREADS'])"
    assert run_script("-c", show, OMP_NUM_THREADS="7").stdout == "7\n"


def test_threads_default_to_the_physical_cores():
    show = (
        "import os; os.environ.pop('OMP_NUM_THREADS', 0); import common.runtime.mxnet;"
        "print(os.environ['OMP_NUM_THREADS'])"
    )
    assert run_script("-c", show).stdout == f"{bootstrap.physical_cores()}\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_only_cores_this_process_may_use_are_counted():
    show = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from common.runtime import bootstrap; print(bootstrap.physical_cores())"
    )
    assert run_script("-c", show, cwd=ROOT).stdout == "1\n"
