"""What the C++ operators refuse: in a line, as an MXNetError, whatever put them into a graph."""

import shutil
import subprocess

import mxnet as mx
import pytest
from conftest import run_script

from common.runtime import native

pytestmark = pytest.mark.skipif(not native.load(), reason="no C++ compiler")


def call(operator, *shapes, **attrs):
    """Run an operator on ones, and wait for it."""
    function = getattr(mx.nd._internal, f"_alexnet_{operator}")
    function(*(mx.nd.ones(shape) for shape in shapes), **attrs).wait_to_read()


@pytest.mark.parametrize(
    "attrs, words",
    [
        ({"kernel": (7, 7)}, "kernel of 3x3 or 5x5"),
        ({"kernel": (3, 5)}, "kernel of 3x3 or 5x5"),
        ({"kernel": (3, 0)}, "kernel=.3, 0. is out of range"),
        ({"kernel": (3, 3, 3)}, "kernel=.3, 3, 3. is out of range"),
        ({"num_group": 2}, "kernel of 3x3 or 5x5"),
        ({"num_filter": 0}, "num_filter"),
        ({"num_filter": 2**32 + 4}, "num_filter=4294967300 is out of range"),
        ({"pad": (0, 0)}, "kernel of 3x3 or 5x5 strides that fits it"),
        ({"pad": (-1, 1)}, "pad=.-1, 1. is out of range"),
        ({"pad": (1, -1)}, "pad=.1, -1. is out of range"),
        ({"pad": (2**31 - 1, 1)}, "too long a side"),
        ({"pad": (2**64, 1)}, "out of range"),
        ({"act_type": "tanh"}, "act_type=tanh"),
    ],
)
def test_convolution_refuses_what_it_cannot_compute(attrs, words):
    options = {"kernel": (3, 3), "num_filter": 4, "pad": (1, 1), **attrs}
    with pytest.raises(mx.base.MXNetError, match=words):
        call("convolution", (2, 3, 2, 2), (4, 3, 3, 3), (4,), **options)


@pytest.mark.parametrize("operator, options", [("lrn", {"nsize": 3}), ("max_pool", {})])
@pytest.mark.parametrize(
    "attrs, words",
    [
        ({"kernel": (4, 4)}, "kernel and stride that fit"),
        ({"kernel": (2, 4)}, "kernel and stride that fit"),
        ({"kernel": (2, 0)}, "kernel=.2, 0."),
        ({"stride": (2, 0)}, "stride=.2, 0."),
        ({"stride": (0, 2)}, "stride=.0, 2."),
        # The last window would begin beyond the map.
        (
            {"kernel": (1, 1), "stride": (2, 4), "pooling_convention": "full"},
            "kernel and stride that fit",
        ),
    ],
)
def test_poolings_that_do_not_fit_are_refused(operator, options, attrs, words):
    window = {"kernel": (2, 2), "stride": (2, 2), **options, **attrs}
    with pytest.raises(mx.base.MXNetError, match=words):
        call(operator, (1, 2, 3, 3), **window)


@pytest.mark.parametrize("nsize", [0, -3])
def test_a_window_of_nothing_is_refused(nsize):
    with pytest.raises(mx.base.MXNetError, match="nsize of at least 1"):
        call("lrn", (1, 2, 3, 3), nsize=nsize)


def test_layers_of_more_values_than_32_bits_count_are_refused():
    data, weight = mx.sym.Variable("data"), mx.sym.Variable("w", shape=(1, 1))
    layer = mx.sym._internal._alexnet_fully_connected(
        data, weight, mx.sym.Variable("b", shape=(1,)), num_hidden=1
    )
    with pytest.raises(mx.base.MXNetError, match="too many values"):
        layer.infer_shape(data=(8, 65536, 65537))  # of 65,536 values, if 32 bits were all


def test_an_update_of_other_sizes_is_refused():
    with pytest.raises(mx.base.MXNetError, match="of one shape, not .8. and .4."):
        call("sgd_mom", 8, 4, 8, lr=0.1, momentum=0.9)


LOCALE = """
import locale
locale.setlocale(locale.LC_ALL, "comma")
assert locale.localeconv()["decimal_point"] == ","
import common.runtime.mxnet, ctypes, mxnet as mx
from common.runtime import native
assert native.load()
assert ctypes.CDLL(None).atof and locale.localeconv()["decimal_point"] == ","
ctypes.CDLL(None).atof.restype = ctypes.c_double
assert ctypes.CDLL(None).atof(b"0.5") == 0  # what the operators must not use
weight, momentum = mx.nd.ones(3), mx.nd.zeros(3)
mx.nd._internal._alexnet_sgd_mom(weight, mx.nd.ones(3), momentum, lr=0.25, momentum=0.5)
assert weight.asnumpy().tolist() == [0.75] * 3, weight
"""


def test_numbers_are_read_alike_in_any_locale(tmp_path):
    make = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "comma")]
    if shutil.which("localedef") is None or subprocess.run(make, capture_output=True).returncode:
        pytest.skip("no locale with a decimal comma can be made here")
    result = run_script("-c", LOCALE, LOCPATH=str(tmp_path))
    assert result.returncode == 0, result.stderr


MEMORY = """
import common.runtime.mxnet, mxnet as mx, resource
from common.runtime import native
assert native.load()
x, y = mx.nd.ones((1, 2, 1, 2**24)), mx.nd.zeros((1, 2, 1, 2**24))
mx.nd._internal._alexnet_lrn(mx.nd.ones((1, 2, 8, 8)), nsize=3).wait_to_read()  # threads start
mx.nd.waitall()
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
try:
    mx.nd._internal._alexnet_lrn(x, nsize=3, out=y)  # 192 MiB a thread beside its arrays
    y.wait_to_read()
except mx.base.MXNetError as error:
    print(str(error).strip())
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_memory_that_is_not_there_is_one_line_and_not_the_end_of_the_process(threads):
    result = run_script("-c", MEMORY, OMP_NUM_THREADS=threads)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("no memory for the operator's temporary arrays") == 1
