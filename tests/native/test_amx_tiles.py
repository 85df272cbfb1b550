"""Products of bfloat16 in AMX's tiles against float64, and those of integers, which are exact.

On a CPU without AMX an emulator (amx_emulator.h) runs the same machine code; what it cannot show is
the speed.
"""

import ctypes
import os
import platform
import subprocess

import numpy as np
import pytest
import reference
from conftest import ROOT

from common.io import cpus
from common.runtime import native

pytestmark = pytest.mark.skipif(
    not native.load() or platform.machine() != "x86_64", reason="no C++ compiler, or no x86-64"
)
HERE = os.path.join(ROOT, "tests", "native")
FLAGS = "-std=c++11 -O1 -fno-math-errno -fno-trapping-math -ffp-contract=off -fopenmp -fPIC -shared"
TOLERANCE = 2e-6  # of an array's largest value: sums in another order
OWN = {"amx_tile", "amx_bf16", "amx_int8"} <= set(cpus.instructions())


def compiled(folder, *flags):
    """tests/native/amx.cc as a library."""
    path = str(folder / "amx.so")
    command = ["g++", *FLAGS.split(), *flags, "-o", path, os.path.join(HERE, "amx.cc")]
    subprocess.run(command, check=True, capture_output=True)
    made = ctypes.CDLL(path)
    made.has_tiles.restype = ctypes.c_bool
    return made


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """On the processor's own tiles if it has them, else on emulated ones."""
    emulator = [] if OWN else ["-include", os.path.join(HERE, "amx_emulator.h")]
    made = compiled(tmp_path_factory.mktemp("tiles"), *emulator)
    if not made.has_tiles():
        pytest.skip("Linux, DNNL_MAX_CPU_ISA or an old compiler keeps AMX away")
    return made


@pytest.mark.skipif(not OWN, reason="this CPU has no AMX; an emulator stands in")
def test_this_cpu_multiplies_itself(library):
    assert native.has_amx() and library.products() == 0


def test_a_compiler_that_does_not_know_amx_leaves_it_out(tmp_path):
    assert not compiled(tmp_path, "-DALEXNET_NO_AMX").has_tiles()


def pointers(*arrays):
    return [None if array is None else ctypes.c_void_p(array.ctypes.data) for array in arrays]


def assert_close(found, right):
    assert found.shape == right.shape
    assert np.abs(found - right).max() <= TOLERANCE * np.abs(right).max()


CONVOLUTIONS = [  # images, groups, channels, filters (of a group), size, pad, side, stride
    (1, 1, 1, 1, (5, 5), (0, 0), 3, 1),
    (3, 1, 3, 17, (6, 9), (1, 2), 3, 1),
    (2, 1, 5, 9, (6, 9), (0, 0), 3, 1),
    (2, 2, 21, 9, (3, 3), (1, 1), 3, 1),
    (2, 1, 21, 9, (7, 6), (2, 2), 5, 1),
    (2, 2, 48, 33, (9, 7), (2, 2), 5, 1),
    (2, 1, 33, 16, (1, 1), (2, 2), 5, 1),
    (1, 1, 2, 70, (3, 20), (4, 3), 3, 1),
    (2, 1, 3, 40, (31, 29), (0, 2), 11, 4),
    (2, 3, 1, 2, (9, 16), (1, 0), 5, 2),
    (4, 1, 70, 40, (13, 13), (1, 1), 3, 1),
]


LARGE = (3, 1, 1, 2, (200, 200), (1, 1), 3, 1)  # weights' gradients are summed in parts


@pytest.mark.parametrize(
    "case, relu", [(c, relu) for c in CONVOLUTIONS for relu in (False, True)] + [(LARGE, True)]
)
def test_a_convolution_and_its_gradients_are_right(case, relu, library):
    images, groups, channels, filters, size, pad, side, stride = case
    out = [(n + 2 * p - side) // stride + 1 for n, p in zip(size, pad)]
    x, w, bias, dy = reference.draw(
        (images, groups * channels, *size),
        (groups * filters, channels, side, side),
        (groups * filters,),
        (images, groups * filters, *out),
    )
    options = {"kernel": (side, side), "num_filter": len(bias), "pad": pad, "num_group": groups}
    options["stride"] = (stride, stride)
    convolution = reference.of_bfloat16(reference.convolution)
    plain, *_ = reference.output_and_gradients(convolution, options, (x, w, bias), dy)
    passed = dy * (plain > 0) if relu else dy
    y, *gradients = reference.output_and_gradients(convolution, options, (x, w, bias), passed)
    y = np.ascontiguousarray(np.maximum(y, 0) if relu else y, np.float32)
    found = [np.full(array.shape, np.nan, np.float32) for array in (y, x, w, bias)]
    sides = np.array([images, groups, channels, filters, *size, *pad, side, stride], np.int64)
    if stride > 1:
        found[1], gradients[0] = None, None
    before = library.products()
    library.convolve(*pointers(sides), relu, *pointers(x, w, bias, dy, y, *found))
    assert OWN or library.products() > before
    for one, right in zip(found, [y, *gradients]):
        if one is not None:
            assert_close(one, right)


@pytest.mark.parametrize("images", [1, 9, 17, 45])
@pytest.mark.parametrize("inputs, outputs", [(1, 1), (31, 17), (33, 40), (300, 1), (64, 1100)])
def test_a_fully_connected_layer_and_its_gradients_are_right(images, inputs, outputs, library):
    x, w, bias, g = reference.draw(
        (images, inputs), (outputs, inputs), (outputs,), (images, outputs)
    )
    layer = reference.of_bfloat16(reference.fully_connected)
    right = reference.output_and_gradients(layer, {}, (x, w, bias), g)
    found = [np.full(shape, np.nan, np.float32) for shape in (g.shape, x.shape, w.shape)]
    sides = [ctypes.c_int64(n) for n in (images, inputs, outputs)]
    library.connect(*sides, *pointers(x, w, bias, g, *found))
    for one, expected in zip(found, right):
        assert_close(one, expected)

    row = -(-inputs // 64) * 64
    padded = np.pad(reference.rounded(w), ((0, 0), (0, row - inputs)))
    words = padded.astype(np.float32).view(np.uint32)
    narrow = (words >> 16).astype(np.uint16)
    found[0][:] = np.nan
    library.connect_narrow(*sides, ctypes.c_int64(row), *pointers(x, narrow, bias, found[0]))
    assert_close(found[0], right[0])


@pytest.mark.parametrize("count", [1, 16, 17, 33, 100])
@pytest.mark.parametrize("runs, quads, blocks", [(1, 16, 1), (11, 9, 3), (5, 24, 2), (1, 1, 1)])
def test_sums_of_integers_are_exact(count, runs, quads, blocks, library):
    random, stride, fours = np.random.RandomState(0), 4 * quads + 5, -(-runs * quads // 16) * 16
    values = random.randint(0, 256, runs * stride + 3 * count).astype(np.uint8)
    weights = np.zeros((blocks, fours, 32, 4), np.int8)
    weights[:, : runs * quads] = random.randint(-128, 128, (blocks, runs * quads, 32, 4))
    sums = np.full((-(-count // 16) * 16, blocks * 32), -1, np.int32)
    sides = [ctypes.c_int64(n) for n in (runs, quads, stride, count, blocks)]
    before = library.products()
    library.multiply_integers(*sides, *pointers(values, weights, sums))
    assert OWN or library.products() > before
    at = 3 * np.arange(count)[:, None, None] + stride * np.arange(runs)[:, None]
    read = values[at + np.arange(4 * quads)].reshape(count, -1).astype(int)
    rows = weights[:, : runs * quads].transpose(0, 2, 1, 3).reshape(blocks * 32, -1)
    assert np.array_equal(sums[:count], read @ rows.T.astype(int))


def test_values_that_are_no_numbers_and_tiny_ones(library):
    x = np.array([np.nan, 1, np.inf, 3e38, -np.inf, 0, 1e-40, 2**-126], np.float32)
    w, bias = np.array([[1, 0], [1, 1]], np.float32), np.zeros(2, np.float32)
    pairs = np.stack([x, np.ones_like(x)], axis=1)
    y, dx, dw = np.empty_like(pairs), np.empty_like(pairs), np.empty_like(w)
    sides = [ctypes.c_int64(n) for n in (8, 2, 2)]
    library.connect(*sides, *pointers(pairs, w, bias, np.zeros_like(pairs), y, dx, dw))
    most = reference.rounded(np.float32(3e38))
    right = np.array([np.nan, 1, np.inf, most, -np.inf, 0, 0, 2**-126], np.float32)
    assert np.array_equal(y[:, 0], right, equal_nan=True)
    assert np.array_equal(y[:, 1], right + 1, equal_nan=True)
