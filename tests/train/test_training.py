"""A module and its optimizer go on exactly as if they had never stopped."""

import mxnet as mx
import numpy as np
import pytest

from common.checkpoint import store
from common.cli import UserError
from common.train import binding, module_state, resume
from common.train.schedule import LearningRate, Length

SHAPE, CLASSES = (1, 4, 4), 3
STATEFUL = {"sgd": 1, "nag": 1, "adam": 2, "rmsprop": 1, "adagrad": 1, "adadelta": 2}
KINDS = [*((name, 0.9) for name in STATEFUL), ("sgd", 0.0), ("nag", 0.0)]


def mlp():
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), name="fc1", num_hidden=7)
    net = mx.sym.Activation(net, act_type="tanh", name="tanh1")
    net = mx.sym.FullyConnected(net, name="fc2", num_hidden=CLASSES)
    return mx.sym.SoftmaxOutput(net, name="softmax")


def settings(optimizer="sgd", mom=0.9, **changes):
    rate = changes.pop("rate", LearningRate(0.1, "cosine"))
    return binding.ModuleSettings(rate, optimizer, mom, 0.01, **changes)


def module_on(devices, chosen, prefix=None):
    """A module on ``devices`` CPU contexts; it goes on from ``prefix`` if that is given."""
    resumed = None
    if prefix:
        state = resume.State()
        state.batches = 4
        _, *weights = store.load(prefix, 4)
        optimizer = store.load_optimizer(prefix, 4)
        resumed = resume.Resumed((prefix, 4), state, *weights, optimizer, [])
    contexts = [mx.cpu(i) for i in range(devices)]
    scheduler = chosen.learning_rate.scheduler(Length(24, 12, 4))
    return binding.bind(mlp(), contexts, (12, *SHAPE), chosen, scheduler, resumed)


def train_module(module, batches):
    """Train on ``batches``, and return the learning rate of each."""
    rates = []
    for number in batches:
        rng = np.random.RandomState(number)
        data, label = rng.normal(size=(12, *SHAPE)), rng.randint(0, CLASSES, 12)
        module.forward_backward(mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(label)]))
        module.update()
        rates.append(module._optimizer.learning_rate)
    return rates


def save_module(module, prefix):
    state = module_state.optimizer_state(module)
    store.save(prefix, 4, mlp(), *module_state.weights(module), state, batches=4)
    return state


def values(module):
    weights, _ = module_state.weights(module)
    state = module_state.optimizer_state(module)
    return {name: array.asnumpy() for name, array in {**weights, **state}.items()}


@pytest.mark.parametrize("kv_store", ["device", "local", "local, updates on devices"])
@pytest.mark.parametrize("optimizer, mom", KINDS)
def test_optimizer_goes_on_exactly_on_as_many_devices_or_others(
    tmp_path, monkeypatch, optimizer, mom, kv_store
):
    if "on devices" in kv_store:  # MXNet's way with local and large weights; its keys are others
        monkeypatch.setenv("MXNET_UPDATE_ON_KVSTORE", "0")
    args = settings(optimizer, mom, kv_store=kv_store.split(",")[0])
    # The others divide by the root of a mean square, and so make more of rounding where that is 0.
    rounding = 1e-6 if optimizer in ("sgd", "nag") else 1e-4
    whole = {}
    for devices in (1, 2, 3):
        module = module_on(devices, args)
        train_module(module, range(4))
        state = save_module(module, str(tmp_path / f"on{devices}"))
        kept = STATEFUL[optimizer] if mom or optimizer not in ("sgd", "nag") else 0
        assert len(state) == 4 * kept
        train_module(module, range(4, 8))
        whole[devices] = values(module)

    for before, after in ((1, 1), (2, 2), (3, 3), (1, 2), (1, 3), (2, 1), (3, 1), (2, 3)):
        module = module_on(after, args, str(tmp_path / f"on{before}"))
        train_module(module, range(4, 8))
        found = values(module)
        assert found.keys() == whole[1].keys()
        for name in found:
            if before == after:
                assert np.array_equal(found[name], whole[before][name]), name
            else:
                np.testing.assert_allclose(found[name], whole[1][name], rtol=1e-5, atol=rounding)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(
    "before, after",
    [
        (("sgd", 0.9), ("sgd", 0.0)),
        (("sgd", 0.0), ("sgd", 0.9)),
        (("adam", 0), ("sgd", 0.9)),
        (("adagrad", 0), ("adam", 0)),
    ],
)
def test_another_optimizers_state_is_refused(tmp_path, before, after, devices):
    prefix = str(tmp_path / "x")
    save_module(module_on_trained(devices, settings(*before)), prefix)
    with pytest.raises(UserError, match="--optimizer, --mom"):
        module_on(devices, settings(*after), prefix)


def module_on_trained(devices, args):
    module = module_on(devices, args)
    train_module(module, range(4))
    return module


@pytest.mark.parametrize("warmup", [0, 0.5, 2.5])
@pytest.mark.parametrize("schedule", ["step", "linear", "cosine"])
def test_learning_rate_goes_on_where_it_was(tmp_path, schedule, warmup):
    steps = (1.5, 3) if schedule == "step" else ()
    args = settings(rate=LearningRate(0.1, schedule, steps, warmup_epochs=warmup))
    prefix = str(tmp_path / "x")
    module = module_on(1, args)
    rates = train_module(module, range(4))
    save_module(module, prefix)
    rates += train_module(module, range(4, 8))
    assert len(set(rates[4:])) > 1  # two updates an epoch, so all of them change within the last 4
    resumed = module_on(1, args, prefix)
    assert train_module(resumed, range(4, 8)) == rates[4:]
