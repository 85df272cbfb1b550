"""--gpus and --cpus."""

import mxnet as mx
import pytest

from common import devices
from common.cli import UserError


def test_without_gpus_it_is_the_cpu():
    assert devices.contexts(None) == [mx.cpu(0)]
    assert devices.contexts(None, cpus=3) == [mx.cpu(0), mx.cpu(1), mx.cpu(2)]


def test_a_cpu_build_refuses_gpus():
    if mx.runtime.Features().is_enabled("CUDA"):
        pytest.skip("this is a CUDA build")
    with pytest.raises(UserError, match="--gpus 0,1: this MXNet is the CPU build"):
        devices.contexts([0, 1])


def cuda_build_with(count, monkeypatch):
    class Features:
        def is_enabled(self, name):
            return name == "CUDA"

    monkeypatch.setattr(mx.runtime, "Features", Features)
    monkeypatch.setattr(mx.context, "num_gpus", lambda: count)


def test_gpus_become_contexts_in_the_order_given(monkeypatch):
    cuda_build_with(4, monkeypatch)
    assert devices.contexts([2, 0]) == [mx.gpu(2), mx.gpu(0)]


@pytest.mark.parametrize(
    "count, gpus, words",
    [(2, [0, 2], "no GPU 2 .MXNet sees 0 to 1"), (0, [0], "sees none"), (2, [-1], "no GPU -1")],
)
def test_a_gpu_that_is_not_there_is_refused(monkeypatch, count, gpus, words):
    cuda_build_with(count, monkeypatch)
    with pytest.raises(UserError, match=words):
        devices.contexts(gpus)


def test_a_gpu_named_twice_is_refused(monkeypatch):
    cuda_build_with(2, monkeypatch)
    with pytest.raises(UserError, match="twice"):
        devices.contexts([1, 1])
