"""Gradients and training of the whole network against PyTorch, which does both in float64.

tests/pytorch_reference.py is the other side; it runs in the environment of the benchmarks' peers
and exchanges arrays as .npz files. Everything starts from one draw of weights, images and labels,
and nothing is dropped. Compared is, array by array, the largest difference over the largest value.

A rounding can switch a relu or the winner of a maximum, and then gradients below differ by up to
percents in any two implementations. MXNet's float32 was seen to decide otherwise than float64 where
the margin was up to 1.0e-7 of a layer's largest value, so the seeds here leave more than CLOSEST.

Last comes a quick check of LRN alone, at extreme values.
"""

import os
import subprocess

import mxnet as mx
import numpy as np
import pytest
import reference
from conftest import ROOT
from test_gradients import draw, error, mkldnn, train_step, without_dropout

import symbols
from common.graph import native_operators
from common.graph.stock_lrn import decompose_lrn
from common.runtime import native
from common.train import binding
from common.train.schedule import LearningRate

PEERS = os.path.join(ROOT, ".venv-bench", "bin", "python")
CLOSEST = 1.5e-7
TOLERANCE = 1e-5  # rounding makes up to 3e-6

needs_pytorch = pytest.mark.skipif(
    not os.path.exists(PEERS), reason=".venv-bench, which has PyTorch: make test-slow makes it"
)
needs_native = pytest.mark.skipif(not native.load(), reason="no C++ compiler")


def pytorch(tmp_path, mode, network, dtype, arrays):
    """What tests/pytorch_reference.py makes of ``arrays``."""
    source, target = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(source, **arrays)
    script = os.path.join(ROOT, "tests", "pytorch_reference.py")
    subprocess.run([PEERS, script, mode, network, dtype, source, target], check=True, timeout=300)
    with np.load(target) as file:
        found = dict(file)
    if dtype == "float64":
        assert found["margin"] > CLOSEST, "a decision is too close to call; choose another seed"
    return found


# Gradients at 227x227; these seeds leave margins of 7e-7 and 5e-7

draws = pytest.mark.parametrize("network, seed", [("alexnet", 15), ("alexnet2012", 10)])


def gradient_errors(tmp_path, network, seed, *forms):
    """For each form of the graph, by array: how far MXNet is from PyTorch."""
    plain = without_dropout(symbols.get_symbol(network, 10))
    values = draw(plain, (2, 3, 227, 227), scale=60, seed=seed)
    expected = pytorch(tmp_path, "gradients", network, "float64", values)
    found = []
    for form in forms:
        output, gradients = train_step(form(plain), values)
        names = [name for name in gradients if name != "softmax_label"]
        errors = {name: error(gradients[name], expected[name]) for name in names}
        found.append({"output": error(output, expected["output"]), **errors})
    return found


@pytest.mark.slow
@needs_pytorch
@draws
def test_gradients_of_every_layer_equal_pytorchs(tmp_path, network, seed):
    forms = [lambda plain: decompose_lrn(plain, (2, 3, 227, 227))]
    if native.load():
        forms.append(
            lambda plain: native_operators.use_native_operators(
                plain, (native_operators.MIN_IMAGES, 3, 227, 227)
            )
        )
    for errors in gradient_errors(tmp_path, network, seed, *forms):
        assert len(errors) == 18
        assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.slow
@needs_pytorch
@mkldnn
@draws
def test_stock_mxnets_gradients_are_wrong_below_its_lrn_and_there_alone(tmp_path, network, seed):
    (errors,) = gradient_errors(tmp_path, network, seed, lambda plain: plain)
    for name, value in errors.items():
        below = name == "data" or name.startswith(("conv1", "conv2"))
        assert (value > 1e-3) if below else (value < TOLERANCE), (name, value)


# Training: the same steps from the same weights

SETTINGS = {"lr": 0.01, "mom": 0.9, "wd": 5e-4}


def bind(network, batch_size, side):
    """The module that train_imagenet.py would train, but without dropout."""
    settings = binding.ModuleSettings(
        LearningRate(SETTINGS["lr"]),
        momentum=SETTINGS["mom"],
        weight_decay=SETTINGS["wd"],
        initializer="normal",
    )
    symbol = without_dropout(symbols.get_symbol(network, 10))
    return binding.bind(symbol, [mx.cpu()], (batch_size, 3, side, side), settings)


def train(module, start, data, label):
    """Set the weights, train on each batch once; return each step's loss and the last weights."""
    module.set_params({name: mx.nd.array(value) for name, value in start.items()}, {})
    losses = []
    for images, labels in zip(data, label):
        module.forward_backward(mx.io.DataBatch([mx.nd.array(images)], [mx.nd.array(labels)]))
        module.update()
        probabilities = module.get_outputs()[0].asnumpy().astype(np.float64)
        losses.append(-np.log(probabilities[np.arange(len(labels)), labels.astype(int)]).mean())
    weights, _ = module.get_params()
    return np.array(losses), {name: value.asnumpy() for name, value in weights.items()}


def drift(found, right, start, steps):
    """By parameter: how wrong its change is, beyond what keeping weights in float32 explains.

    Each step rounds the weight that it stores, by half a unit in the last place at most. Where
    weights change little that is most of the difference, in PyTorch's float32 as well.
    """

    def of(name):
        difference = abs(found[name] - right[name])
        largest = np.maximum(abs(start[name]), abs(found[name]))
        beyond = difference - steps * np.spacing(largest) / 2
        return beyond.max() / abs(right[name] - start[name]).max()

    return {name: of(name) for name in start}


@pytest.mark.slow
@needs_pytorch
@pytest.mark.parametrize(
    "network, side, batch_size, steps, seed, operators",
    [
        ("alexnet", 67, 8, 1, 8, "native"),
        ("alexnet", 67, 8, 10, 8, "native, plain sums"),
        ("alexnet", 67, 8, 10, 8, "stock"),
        ("alexnet2012", 67, 8, 1, 22, "native"),
        ("alexnet2012", 67, 8, 10, 22, "native, plain sums"),
        ("alexnet", 227, 2, 2, 0, "native"),
    ],
)
def test_training_equals_pytorchs(
    tmp_path, monkeypatch, network, side, batch_size, steps, seed, operators
):
    if operators == "stock":
        monkeypatch.setattr(native, "load", lambda: False)
    elif not native.load():
        pytest.skip("no C++ compiler")
    elif operators != "native":
        # Winograd's method rounds more than the margin that ten steps leave with any seed.
        monkeypatch.setattr(native_operators, "_winograd_pays", lambda *_: False)
    shape = (batch_size, 3, side, side)
    start = draw(symbols.get_symbol(network, 10), shape, seed=seed)
    del start["data"], start["softmax_label"]
    rng = np.random.RandomState(seed)
    data = rng.normal(0, 10, (steps, *shape)).astype(np.float32)
    label = rng.randint(0, 10, (steps, batch_size)).astype(np.float32)

    losses, weights = train(bind(network, batch_size, side), start, data, label)

    arrays = {"data": data, "softmax_label": label, **start, **SETTINGS}
    right, pytorch32 = (
        pytorch(tmp_path, "train", network, dtype, arrays) for dtype in ("float64", "float32")
    )
    np.testing.assert_allclose(losses, right["loss"], rtol=TOLERANCE)
    np.testing.assert_allclose(pytorch32["loss"], right["loss"], rtol=TOLERANCE)
    for found in (weights, pytorch32):
        beyond = drift(found, right, start, steps)
        assert max(beyond.values()) < TOLERANCE, beyond


# LRN alone


@needs_native
@pytest.mark.parametrize("magnitude", [0.0, 1e-45, 1e-40, 1e-38, 1e-20, 1e4, 1e9, 1e15, 1e18])
def test_lrn_and_its_gradient_are_right_from_denormal_to_huge_values(magnitude):
    rng = np.random.RandomState(0)
    x = (rng.uniform(-1, 1, (2, 13, 3, 3)) * magnitude).astype(np.float32)
    gradient = rng.uniform(-1, 1, x.shape).astype(np.float32)
    array = mx.nd.array(x)
    array.attach_grad()
    with mx.autograd.record():
        output = mx.nd._internal._alexnet_lrn(array, nsize=5)
    output.backward(mx.nd.array(gradient))
    lrn = {"nsize": 5}
    expected, back = reference.output_and_gradients(reference.lrn, lrn, [x], gradient)
    minuend = gradient * reference.lrn_factor(lrn, x.astype(np.float64))
    smallest = 1.5e-45  # float32's, as far apart as denormal values are
    assert abs(output.asnumpy() - expected).max() < 1e-6 * abs(expected).max() + smallest
    assert abs(array.grad.asnumpy() - back).max() < 1e-6 * abs(minuend).max()
