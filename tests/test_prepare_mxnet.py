"""Old MXNet code with today's numpy: what prepare_mxnet.py mends."""

import os
import warnings

import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT, assert_refused, run_script


class Number(np.int64):
    """An integer that prints as numpy 2's do, with any numpy."""

    def __repr__(self):
        return f"np.int64({int(self)})"


TWO, THREE = Number(2), Number(3)
IMAGE = mx.nd.arange(16).reshape((1, 1, 4, 4))


@pytest.mark.parametrize(
    "shape, make",
    [
        ((2, 3), lambda: mx.nd.ones((TWO, THREE))),
        ((2, 3), lambda: mx.nd.ones([TWO, THREE])),
        ((2,), lambda: mx.random.uniform(shape=(TWO,))),
        ((1, 1, 3, 3), lambda: mx.nd.Pooling(IMAGE, kernel=(TWO, TWO), pool_type="max")),
        ((1, 1, 2, 2), lambda: IMAGE.slice(begin=(0, 0, TWO, TWO), end=(1, 1, 4, 4))),
        ((2, 3), lambda: mx.nd.ones((1, 3)).broadcast_to((TWO, THREE))),
    ],
)
def test_operators_take_tuples_of_numpys_integers(shape, make):
    assert make().shape == shape


def test_symbols_take_tuples_of_numpys_integers():
    pooled = mx.sym.Pooling(mx.sym.Variable("x", shape=(1, 1, THREE, 4)), kernel=(TWO, THREE))
    assert pooled.infer_shape()[1] == [(1, 1, 2, 2)]
    assert pooled.attr("kernel") == "(2, 3)"


def test_an_element_is_set_by_one_of_numpys_integers():
    array = mx.nd.zeros((4, 2))
    array[THREE] = 7
    array[TWO, 1:] = 5
    assert array.asnumpy().tolist() == [[0, 0], [0, 0], [0, 5], [7, 7]]


def test_iterators_take_tuples_of_numpys_integers(small):
    shape = (THREE, Number(32), Number(32))
    images = mx.io.ImageRecordIter(path_imgrec=small.val, data_shape=shape, batch_size=TWO)
    assert images.next().data[0].shape == (2, 3, 32, 32)


def test_custom_operators_get_their_parameters_as_with_numpy_1():
    class Keeps(mx.operator.CustomOpProp):
        def __init__(self, **options):
            super().__init__()
            given.append(options)

    given = []
    mx.operator.register("keeps")(Keeps)
    options = {"pair": (TWO,), "list": [[TWO], 1.5], "dict": {"a": np.float32(0.1)}, "text": "np."}
    mx.sym.Custom(mx.sym.Variable("x"), op_type="keeps", **options)
    texts = {"pair": "(2,)", "list": "[[2], 1.5]", "dict": "{'a': 0.1}", "text": "np."}
    assert given[-1] == texts


def test_orthogonal_weights():
    weight = mx.nd.zeros((TWO, 3))
    mx.init.Orthogonal(scale=1)(mx.init.InitDesc("x_weight"), weight)
    weight = weight.asnumpy()
    assert np.allclose(weight @ weight.T, np.eye(2), atol=1e-6)


def test_how_numpys_numbers_print_is_numpys_own():
    show = "print(repr(np.int64(2)), [np.float32(.1)])"
    before = run_script("-c", f"import numpy as np; {show}")
    after = run_script("-c", f"import prepare_mxnet, numpy as np; {show}")
    assert after.stdout == before.stdout


def test_records_with_several_labels_are_packed_without_a_warning():
    image = np.full((4, 4, 3), 200, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed = mx.recordio.pack(mx.recordio.IRHeader(0, [1, 2], 3, 0), b"bytes")
        picture = mx.recordio.pack_img((0, 7, 3, 0), image, img_fmt=".png")
    header, content = mx.recordio.unpack(packed)
    assert (header.flag, header.label.tolist(), header.id, content) == (2, [1, 2], 3, b"bytes")
    header, content = mx.recordio.unpack_img(picture)
    assert header.label == 7 and np.array_equal(content, image)


@pytest.mark.parametrize("array", [mx.nd.array([[1, 2], [3, 0]]), mx.np.array([[1, 2], [3, 0]])])
def test_numpys_functions_take_mxnets_arrays(array):
    values = np.asarray(array)
    assert values.dtype == np.float32 and values.tolist() == [[1, 2], [3, 0]]
    assert not np.all(array) and np.any(array)
    assert np.asarray(array, dtype="int64").dtype == np.int64
    values[:] = 9  # a copy: the array keeps its own
    assert array.asnumpy()[0, 0] == 1


def test_numpys_functions_take_sparse_arrays_and_lists_of_arrays():
    dense = mx.nd.array([[1, 0], [0, 2]])
    assert np.asarray(dense.tostype("csr")).tolist() == [[1, 0], [0, 2]]
    assert np.concatenate([dense, dense]).shape == (4, 2)


@pytest.mark.skipif(np.__version__ < "2", reason="numpy 1 never asks for no copy")
def test_an_array_without_a_copy_is_refused():
    with pytest.raises(ValueError, match="copy"):
        np.array(mx.nd.ones(2), copy=False)


def test_a_script_runs_unchanged_beside_a_module_called_common(tmp_path):
    (tmp_path / "common.py").write_text("value = 'own'")
    (tmp_path / "old.py").write_text(
        "import sys, common, mxnet as mx, numpy as np\n"
        "files = [getattr(module, '__file__', None) or '' for module in sys.modules.values()]\n"
        f"ours = [file for file in files if file.startswith({os.path.join(ROOT, 'common')!r})]\n"
        "print(common.value, mx.nd.ones(3).sum().asscalar(), np.bool(1), __name__, sys.argv, ours)"
    )
    result = run_script("-m", "prepare_mxnet", "old.py", "--flag", cwd=tmp_path)
    assert result.stderr == ""
    assert result.stdout == "own 3.0 True __main__ ['old.py', '--flag'] []\n"


@pytest.mark.parametrize("arguments", [[], ["absent.py"]])
def test_without_a_script_it_says_how_it_is_called(arguments):
    assert_refused(run_script("-m", "prepare_mxnet", *arguments), "usage: python -m prepare_mxnet")


def test_make_test_mxnet_tells_known_failures_from_others(tmp_path):
    tests = tmp_path / "tests" / "python" / "unittest"
    tests.mkdir(parents=True)
    (tests / "test_module.py").touch()
    (tests / "common.py").write_text("value = 1\n")
    metric = tests / "test_metric.py"
    metric.write_text("import common\ndef test_acc(): assert common.value == 2\n")
    result = run_script("tests/mxnet_tests.py", tmp_path, "metric")
    assert result.returncode == 0 and "1 xfailed" in result.stdout
    metric.write_text("def test_other(): assert False\n")
    result = run_script("tests/mxnet_tests.py", tmp_path, "metric")
    assert result.returncode == 1 and result.stdout.endswith("failures: metric\n")
