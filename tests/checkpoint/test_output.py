"""Scripts that make a checkpoint in one go write all of it, or nothing."""

import os

import mxnet as mx
import numpy as np
import pytest

from common.checkpoint import store
from common.checkpoint.config import config_entries, load_config
from common.checkpoint.output import new_checkpoint
from common.cli import UserError
from common.io import files


class Killed(BaseException):
    """kill -9 at this very moment: nothing is tidied up."""


def network(number):
    """A network of one layer; weights, number of classes and config all tell ``number``."""
    symbol = mx.sym.FullyConnected(mx.sym.Variable("data"), name="fc", num_hidden=number)
    symbol = mx.sym.SoftmaxOutput(symbol, name="softmax")
    weights = {"fc_weight": mx.nd.ones((number, 3)) * number, "fc_bias": mx.nd.zeros(number)}
    return (symbol, weights, {}), config_entries({"num_classes": number}, None)


@pytest.fixture
def prefix(tmp_path):
    """Where there is a checkpoint 1 already: a network of 4 classes."""
    prefix = str(tmp_path / "x")
    with new_checkpoint(prefix, 1, overwrite=False) as save:
        assert save(*network(4)) == f"{prefix}-0001.params"
    return prefix


def number_of(prefix):
    """Which network is at ``prefix``; all its files must tell the same one."""
    symbol, weights, _ = store.load(prefix, 1)
    (_, (classes,)) = weights["fc_weight"].shape[::-1], weights["fc_bias"].shape
    assert weights["fc_weight"].asnumpy()[0, 0] == classes
    assert f'"num_hidden": "{classes}"' in symbol.tojson()
    assert load_config(prefix)["args"]["num_classes"] == classes
    return classes


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_checkpoint_in_the_way_is_replaced_only_when_that_is_asked_for(prefix, tmp_path):
    before = contents(tmp_path)
    refusal = pytest.raises(UserError, match="--out-prefix .*x-0001.params exists.*--overwrite")
    with refusal, new_checkpoint(prefix, 1, overwrite=False):
        pass
    assert contents(tmp_path) == before
    with new_checkpoint(prefix, 2, overwrite=True) as save:
        save(*network(5))
    assert store.numbers(prefix) == [2]


def test_work_that_fails_leaves_the_old_checkpoint_as_it_was(prefix, tmp_path):
    before = contents(tmp_path)
    with pytest.raises(KeyError), new_checkpoint(prefix, 1, overwrite=True):
        raise KeyError
    assert contents(tmp_path) == before


@pytest.mark.parametrize("calls", range(12))
def test_a_kill_at_any_moment_of_writing_leaves_no_mixture(prefix, monkeypatch, calls):
    """Before the given number of renames and deletions: the old network, the new one, or none."""
    done = []

    def killing(function):
        def call(*args):
            if len(done) >= calls:
                raise Killed
            done.append(args)
            return function(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", killing(os.replace))
        patch.setattr(files.os, "unlink", killing(os.unlink))
        try:
            with new_checkpoint(prefix, 1, overwrite=True) as save:
                save(*network(5))
        except Killed:
            pass
    if os.path.exists(f"{prefix}.lock"):
        os.unlink(f"{prefix}.lock")
    try:
        found = number_of(prefix)
    except UserError as error:
        assert "no such checkpoint" in str(error)
        found = None
    assert found in ((4,) if calls == 0 else (5,) if calls >= 9 else (4, 5, None))
    store.remove_left_over(prefix)
    with new_checkpoint(prefix, 1, overwrite=True) as save:
        save(*network(6))
    assert number_of(prefix) == 6
    assert np.sum([".tmp" in name for name in os.listdir(os.path.dirname(prefix))]) == 0
