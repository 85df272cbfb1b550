"""--dtype float16, as far as it can be shown without a GPU: graph, float32 copies, flags.

MXNet has no float16 layers for the CPU, but products and the optimizers: a network of one product
is what really trains here in float16, on two devices.
"""

from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, run_script

import symbols
from common.cli import UserError
from common.graph.precision import cast
from common.io.log import RunLog
from common.train import binding, loop, module_state
from common.train.checkpoints import Checkpoints
from common.train.cluster import Cluster
from common.train.resume import State
from common.train.schedule import Length


@pytest.mark.parametrize(
    "network, options",
    [
        ("alexnet", {}),
        ("alexnet", {"dropout_form": "dropconnect"}),
        ("alexnet2012", {}),
        ("lenet", {}),
    ],
)
def test_all_but_the_ends_is_float16(network, options):
    plain = symbols.get_symbol(network, 10, **options)
    half = cast(plain, "float16")
    assert half.list_arguments() == plain.list_arguments()
    assert half.list_outputs() == plain.list_outputs()
    internals = half.get_internals()
    types = dict(zip(internals.list_outputs(), internals.infer_type(data="float32")[1]))
    ends = {"data", "softmax_label", "softmax_cast_output", "softmax_output"}
    assert {name for name, kind in types.items() if kind == np.float32} == ends
    assert {kind for name, kind in types.items() if name not in ends} == {np.float16}


def test_the_casts_change_nothing_in_float64_and_the_loss_scale_only_the_gradient():
    """MXNet has no float16 layers for the CPU; the same pass to float64 runs there."""
    plain = symbols.get_symbol("lenet", 10)
    rng = np.random.RandomState(0)
    batch = [mx.nd.array(rng.normal(0, 1, (4, 1, 32, 32)))], [mx.nd.array([0, 1, 2, 3])]
    found = []
    for symbol in (cast(plain, "float64"), cast(plain, "float64", loss_scale=64)):
        module = mx.mod.Module(symbol)
        module.bind([("data", (4, 1, 32, 32))], [("softmax_label", (4,))])
        mx.random.seed(1)
        module.init_params(mx.init.Xavier())
        module.forward_backward(mx.io.DataBatch(*batch))
        gradients = [grads[0].asnumpy() for grads in module._exec_group.grad_arrays]
        found.append((module.get_outputs()[0].asnumpy(), gradients))
    (said, once), (also, scaled) = found
    assert said.dtype == np.float32 and np.array_equal(said, also)
    assert any(gradient.any() for gradient in once)
    for gradient, large in zip(once, scaled):
        assert np.array_equal(gradient * 64, large)


TWO_DEVICES = [mx.cpu(0), mx.cpu(1)]


def bound(optimizer="sgd", weights=1, frozen=None):
    """A float16 module for batches (8, 2) on two devices: its scores are data times the weights."""
    scores = mx.sym.Cast(mx.sym.Variable("data"), dtype="float16")
    for number in range(weights):
        weight = mx.sym.Variable(f"layer{number}_weight", shape=(1, 2), dtype="float16")
        scores = mx.sym.broadcast_mul(scores, weight)
    symbol = mx.sym.SoftmaxOutput(mx.sym.Cast(scores, dtype="float32"), name="softmax")
    module = mx.mod.Module(symbol, context=TWO_DEVICES, fixed_param_names=frozen)
    module.bind([("data", (8, 2))], [("softmax_label", (8,))])
    module.init_params(mx.init.Zero())
    momentum = {"momentum": 0.9} if optimizer in ("sgd", "nag") else {}
    options = {"learning_rate": 1e-3, "wd": 0.1, "multi_precision": True, **momentum}
    module.init_optimizer("device", optimizer, options)
    return module


def batch(first, second):
    """Four times the row ``first`` for one device, ``second`` for the other, all of class 0."""
    return mx.io.DataBatch([mx.nd.array([first] * 4 + [second] * 4)], [mx.nd.zeros(8)])


@pytest.mark.parametrize("name", binding.OPTIMIZERS)
def test_a_checkpoint_has_the_optimizers_float32_copies(name):
    module, other = bound(name), bound(name)
    before = module_state.weights(module)[0]["layer0_weight"].asnumpy()
    weight = module._exec_group.param_arrays[0][0]
    assert before.dtype == np.float32 and np.array_equal(before, weight.asnumpy())
    for _ in range(3):
        module.forward_backward(batch([1, 2], [3, 4]))
        module.update()
    copy = module_state.weights(module)[0]["layer0_weight"].asnumpy()
    assert copy.dtype == np.float32
    assert not np.array_equal(copy, copy.astype(np.float16))  # it has what float16 cannot hold
    assert np.array_equal(copy.astype(np.float16), weight.asnumpy())

    state = {key: array.copy() for key, array in module_state.optimizer_state(module).items()}
    module_state.restore_optimizer(other, state)
    assert np.array_equal(module_state.weights(other)[0]["layer0_weight"].asnumpy(), copy)


def test_float16_without_a_gpu_is_refused():
    flags = ["--network", "lenet", "--dataset", "mnist", "--benchmark", 1]
    assert_refused(run_script("train_imagenet.py", *flags, "--dtype", "float16"), "--gpus")


def run_of(module, **settings):
    """A run of ``module`` that keeps no checkpoint."""
    length = Length(images=8, batch_size=8, num_epochs=9)
    checkpoints = Checkpoints(module.symbol, length)
    looping = loop.LoopSettings(top_k=1, check_gradients=True, **settings)
    data = SimpleNamespace(records=None, class_weights=None, num_classes=2)
    return loop.Run(module, data, length, looping, checkpoints, RunLog(), State(), Cluster())


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("weight, device", [(0, 1), (1, 0), (2, 1)])
def test_a_gradient_that_is_not_finite_is_found_on_any_device(bad, weight, device):
    module = bound(weights=3)
    run = run_of(module)
    module.forward_backward(batch([1, 2], [3, 4]))
    assert run.gradients.are_finite()
    module._exec_group.grad_arrays[weight][device][0, 1] = bad
    assert not run.gradients.are_finite()


def test_a_frozen_weight_has_no_gradient_to_look_at():
    module = bound(weights=2, frozen=["layer0_weight"])
    module.forward_backward(batch([1, 2], [3, 4]))
    assert module._exec_group.grad_arrays[0] == [None, None]
    assert run_of(module).gradients.are_finite()


@pytest.mark.parametrize("rows", [([1, 2], [65504, 0]), ([0, 65504], [1, 2])])
def test_a_batch_whose_gradient_is_beyond_float16_is_left_out(rows):
    """Its loss is finite: the weights are 0, so both classes have the probability 0.5."""
    module = bound()
    run = run_of(module, skip_nonfinite=1)
    run._step(batch(*rows), "epoch 1/9")
    gradients = [array.asnumpy() for array in module._exec_group.grad_arrays[0]]
    assert np.isinf(gradients).any() and not np.isinf(gradients).all()
    assert run.state.skipped == 1
    assert not module_state.weights(module)[0]["layer0_weight"].asnumpy().any()
    run._step(batch([1, 2], [3, 4]), "epoch 1/9")
    assert run.state.skipped == 1
    assert module_state.weights(module)[0]["layer0_weight"].asnumpy().all()
    with pytest.raises(UserError, match="not finite"):
        run_of(bound())._step(batch(*rows), "epoch 1/9")
