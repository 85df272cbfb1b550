"""Checkpoints as people bring them: what does not fit together is told, old forms are read."""

import struct

import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, bands, run_script, write_records

import symbols
from common.checkpoint import store
from common.checkpoint.arrays import array_names
from common.checkpoint.config import save_config
from common.cli import UserError

CONFIG = {"network": "lenet", "num_classes": 3, "image_shape": [1, 32, 32], "resize": None}
CONFIG.update(rgb_mean=[90.0], rgb_std=[30.0], data_val=None)


@pytest.fixture(scope="module")
def weights():
    """Of LeNet, as mx.nd.save takes them."""
    module = mx.mod.Module(symbols.get_symbol("lenet", 3))
    module.bind([("data", (1, 1, 32, 32))], [("softmax_label", (1,))])
    module.init_params(mx.init.Xavier())
    return {f"arg:{name}": array for name, array in module.get_params()[0].items()}


@pytest.fixture
def prefix(tmp_path):
    prefix = str(tmp_path / "x")
    symbols.get_symbol("lenet", 3).save(f"{prefix}-symbol.json")
    save_config(prefix, CONFIG, None)
    return prefix


def refusal(prefix, weights):
    mx.nd.save(f"{prefix}-0001.params", weights)
    with pytest.raises(UserError) as refused:
        store.load(prefix, 1)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_missing_weight_is_named_by_every_tool(prefix, weights, tmp_path):
    rest = {name: array for name, array in weights.items() if name != "arg:c3_weight"}
    assert "x-0001.params: has no c3_weight, which the graph needs" in refusal(prefix, rest)
    path = write_records(tmp_path / "val", *bands(4, seed=1))
    model = ["--model-prefix", prefix, "--load-epoch", 1]
    for command in (
        ["predict.py", *model, path],
        ["score.py", *model, "--data-val", path],
        ["export_mxnet.py", *model, "--data-val", path],
        ["export_onnx.py", *model, "--data-val", path],
        ["quantize.py", *model, "--data-calib", path],
    ):
        assert_refused(run_script(*command), "has no c3_weight")


def test_a_weight_of_another_shape_is_named_with_both_shapes(prefix, weights):
    cut = {**weights, "arg:f6_weight": weights["arg:f6_weight"][:80]}
    assert "f6_weight is 80x120, and the graph needs 84x120" in refusal(prefix, cut)


def test_images_that_the_graph_cannot_take_are_told(prefix, weights):
    save_config(prefix, {**CONFIG, "image_shape": [3, 32, 32]}, None)
    assert "c1_weight is 6x1x5x5, and the graph needs 6x3x5x5" in refusal(prefix, weights)
    save_config(prefix, {**CONFIG, "image_shape": [1, 4, 4]}, None)
    assert "images of 1,4,4 do not fit the graph" in refusal(prefix, weights)


def test_gluons_names_are_no_damage(prefix, weights):
    own = {name[4:]: array for name, array in weights.items()}
    assert "without arg: or aux:, as Gluon's save_parameters writes" in refusal(prefix, own)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats_become_float32(prefix, weights, dtype):
    mx.nd.save(f"{prefix}-0001.params", {n: a.astype(dtype) for n, a in weights.items()})
    _, found, _ = store.load(prefix, 1)
    for name, array in found.items():
        assert array.dtype == np.float32
        assert np.allclose(array.asnumpy(), weights[f"arg:{name}"].asnumpy(), atol=1e-3)


HEADS = {
    "MXNet 0.10": lambda shape: struct.pack(f"<Ii{len(shape)}q", 0xF993FAC8, len(shape), *shape),
    "before 0.10": lambda shape: struct.pack(f"<I{len(shape)}I", len(shape), *shape),
}


@pytest.mark.parametrize("version", HEADS)
def test_arrays_of_old_versions_are_read(prefix, weights, version):
    with open(f"{prefix}-0001.params", "wb") as file:
        file.write(struct.pack("<3Q", 0x112, 0, len(weights)))
        for array in weights.values():
            file.write(HEADS[version](array.shape) + struct.pack("<3i", 1, 0, 0))
            file.write(array.asnumpy().tobytes())
        file.write(struct.pack("<Q", len(weights)))
        for name in weights:
            file.write(struct.pack("<Q", len(name)) + name.encode())
    _, found, _ = store.load(prefix, 1)
    for name, array in found.items():
        assert np.array_equal(array.asnumpy(), weights[f"arg:{name}"].asnumpy())


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "uint8", "int32", "int8", "int64"]
)
def test_arrays_of_each_type_are_followed_to_their_end(tmp_path, dtype):
    path = str(tmp_path / "x.params")
    mx.nd.save(path, {name: mx.nd.ones((3, 5), dtype=dtype) for name in "ab"})
    assert array_names(path) == ["a", "b"]
