"""--dtype float16, as far as it can be shown without a GPU: graph, float32 copies, flags."""

from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, run_script

import symbols
from common.graph.precision import cast
from common.train import binding, loop, module_state


@pytest.mark.parametrize("network", ["alexnet", "alexnet2012", "lenet"])
def test_all_but_the_ends_is_float16(network):
    plain = symbols.get_symbol(network, 10)
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


@pytest.mark.parametrize("name", binding.OPTIMIZERS)
def test_a_checkpoint_has_the_optimizers_float32_copies(name):
    rng = np.random.RandomState(0)
    weight, gradient = (mx.nd.array(rng.normal(0, 1, 50)).astype("float16") for _ in range(2))
    momentum = {"momentum": 0.9} if name in ("sgd", "nag") else {}
    optimizer = mx.optimizer.create(
        name, learning_rate=1e-3, wd=0.1, multi_precision=True, **momentum
    )
    updater = mx.optimizer.get_updater(optimizer)
    module = SimpleNamespace(
        _optimizer=optimizer,
        _updater=updater,
        _update_on_kvstore=False,
        _context=[mx.cpu()],
        _exec_group=SimpleNamespace(
            param_names=["w"],
            param_arrays=[[weight]],
            grad_arrays=[[gradient]],
            aux_names=[],
            aux_arrays=[],
        ),
    )
    before = module_state.weights(module)[0]["w"].asnumpy()
    assert before.dtype == np.float32 and np.array_equal(before, weight.asnumpy())
    for _ in range(3):
        updater(0, gradient, weight)
    copy = module_state.weights(module)[0]["w"].asnumpy()
    assert copy.dtype == np.float32
    assert not np.array_equal(copy, copy.astype(np.float16))  # it has what float16 cannot hold
    assert np.array_equal(copy.astype(np.float16), weight.asnumpy())

    state = {key: array.copy() for key, array in module_state.optimizer_state(module).items()}
    updater.states.clear()
    module_state.restore_optimizer(module, state)
    assert np.array_equal(module_state.weights(module)[0]["w"].asnumpy(), copy)


def test_float16_without_a_gpu_is_refused():
    flags = ["--network", "lenet", "--dataset", "mnist", "--benchmark", 1]
    assert_refused(run_script("train_imagenet.py", *flags, "--dtype", "float16"), "--gpus")


def with_gradients(*gradients):
    """What a run on two devices asks of itself; each of ``gradients`` is one device's, or None."""
    arrays = [
        [one and mx.nd.array(one, dtype="float16", ctx=mx.cpu(i)) for i, one in enumerate(copies)]
        for copies in gradients
    ]
    group = SimpleNamespace(grad_arrays=arrays)
    return SimpleNamespace(
        settings=loop.LoopSettings(check_gradients=True), module=SimpleNamespace(_exec_group=group)
    )


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_gradient_that_is_not_finite_is_found_on_any_device(bad):
    fine = [1, -65504], [0, 3]
    assert loop.Run._gradients_fit(with_gradients(fine, fine, [None, None]))
    assert not loop.Run._gradients_fit(with_gradients(fine, ([1, 2], [bad, 2])))
    assert not loop.Run._gradients_fit(with_gradients(([1, bad], [1, 2]), fine))


def test_one_call_a_device_looks_at_all_gradients_before_any_is_waited_for(monkeypatch):
    calls = []

    def watched(*gradients, num_arrays):
        calls.append((len(gradients), num_arrays, {g.context for g in gradients}))
        return SimpleNamespace(asscalar=lambda: calls.append("waits") or 1)

    monkeypatch.setattr(mx.nd, "multi_all_finite", watched)
    three = [([1], [2])] * 3
    assert loop.Run._gradients_fit(with_gradients(*three))
    assert calls == [(3, 3, {mx.cpu(0)}), (3, 3, {mx.cpu(1)}), "waits", "waits"]
