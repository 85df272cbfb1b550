"""--gpus and --cpus, and what else is of devices, with drivers and cards that are made up."""

import os
import sys

import mxnet as mx
import pytest
from conftest import train
from drivers import CARDS, GIB, TOO_NEW, TOO_OLD

import symbols
from common.cli import UserError
from common.runtime import cuda, devices


def refusal(gpus):
    with pytest.raises(UserError) as caught:
        devices.contexts(gpus)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_gpus_it_is_the_cpu():
    assert devices.contexts(None) == [mx.cpu(0)]
    assert devices.contexts(None, cpus=3) == [mx.cpu(0), mx.cpu(1), mx.cpu(2)]


@pytest.mark.skipif(cuda.is_needed(), reason="this is a CUDA build")
def test_a_cpu_build_refuses_gpus():
    assert refusal([0, 1]).startswith("--gpus 0,1: this MXNet is the CPU build")


def test_gpus_become_contexts_in_the_order_given(machine):
    driver = machine(["Tesla T4"] * 4)
    assert devices.contexts([2, 0]) == [mx.gpu(2), mx.gpu(0)]
    assert driver.open == 0


def test_a_gpu_named_twice_is_refused(machine):
    machine(["Tesla T4"] * 2)
    assert "twice" in refusal([1, 1])


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_used_if_mxnet_has_code_for_it(machine, name):
    machine([name])
    if name not in TOO_OLD + TOO_NEW:
        assert devices.contexts([0]) == [mx.gpu(0)]
        return
    said = refusal([0])
    assert said.startswith("--gpus 0: GPU 0, " + name)
    assert f"compute capability {CARDS[name][0]}.{CARDS[name][1]}" in said
    assert ("too old" if name in TOO_OLD else "too new") in said
    assert "leave --gpus out" in said


def test_beside_a_card_that_is_too_new_those_that_are_not_are_named(machine):
    machine(["NVIDIA B200", "NVIDIA L4", "Tesla K80", "Tesla T4"])
    assert refusal([1, 0]).endswith("give --gpus 1,3")
    assert devices.contexts([1]) == [mx.gpu(1)]


@pytest.mark.parametrize(
    "count, gpus, words",
    [
        (2, [0, 2], "there is no GPU 2; there are: 0 (Tesla T4), 1 (Tesla T4)"),
        (0, [0], "there is no GPU 0; there are: none"),
        (2, [-1], "there is no GPU -1"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(machine, count, gpus, words):
    machine(["Tesla T4"] * count)
    assert words in refusal(gpus)


@pytest.mark.parametrize(
    "chosen, names",
    [
        ("1,0", ["Tesla K80", "Tesla T4"]),
        (" 2 ", ["NVIDIA L4"]),
        ("GPU-025a0b1c,GPU-00", ["NVIDIA L4", "Tesla T4"]),
        ("0,7,1", ["Tesla T4"]),
        ("GPU-0", []),
        ("-1", []),
        ("", []),
    ],
)
def test_ids_count_the_cards_that_cuda_shows(machine, monkeypatch, chosen, names):
    machine(["Tesla T4", "Tesla K80", "NVIDIA L4"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    _, cards = cuda.driver_and_cards()
    assert [card.name for card in cards] == names
    assert f"(CUDA_VISIBLE_DEVICES={chosen})" in refusal([3])


@pytest.mark.parametrize(
    "version, right",
    [("440.118.02", False), ("450.51.06", False), ("450.80.02", True), ("460.27", True)],
)
def test_a_driver_too_old_for_cuda_11_is_refused(machine, version, right):
    machine(["Tesla T4"], version=version)
    if right:
        assert devices.contexts([0]) == [mx.gpu(0)]
    else:
        assert f"{version}, is too old for CUDA 11; install" in refusal([0])


@pytest.mark.parametrize(
    "error, words",
    [
        (12, "no NVIDIA driver is running; install NVIDIA's driver, 450.80.02 or later"),
        (9, "no NVIDIA driver is running"),
        (18, "was updated while it ran; reboot"),
        (15, "fails (NVML error 15); nvidia-smi has to work first"),
    ],
)
def test_a_driver_that_does_not_answer_is_refused(machine, error, words):
    machine(["Tesla T4"], error=error)
    assert words in refusal([0])


def test_without_nvidia_ml_py_one_line_says_so(machine, monkeypatch):
    machine(["Tesla T4"])
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "--gpus 0: nvidia-ml-py: not installed" in refusal([0])


def test_gpus_that_only_the_driver_sees_are_refused(machine, monkeypatch):
    machine(["Tesla T4"] * 2)
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    assert "the driver has 2 GPUs, and MXNet can use 0" in refusal([0])


def test_what_cuda_says_when_it_fails_is_one_line(machine, monkeypatch):
    def fail():
        raise mx.MXNetError("Traceback\n  base.cc:1\nCUDA: unknown error\n")

    machine(["Tesla T4"])
    monkeypatch.setattr(mx.context, "num_gpus", fail)
    assert refusal([0]) == "--gpus 0: CUDA fails: CUDA: unknown error"


def settings(batch_size, network="alexnet"):
    return (batch_size, *symbols.IMAGE_SHAPES[network]), "sgd", "float32", 1


@pytest.mark.parametrize("network", ["alexnet", "alexnet2012"])
@pytest.mark.parametrize("batch_size", [32, 128])
def test_the_memory_foretold_is_what_mxnet_allocates(network, batch_size):
    symbol, shape = symbols.get_symbol(network), symbols.IMAGE_SHAPES[network]
    module = mx.mod.Module(symbol)
    module.bind([("data", (batch_size, *shape))], [("softmax_label", (batch_size,))])
    executor = module._exec_group.execs[0]
    (pool,) = (line for line in executor.debug_str().splitlines() if " MB allocated" in line)
    numbers = sum(array.size for array in executor.arg_arrays)
    numbers += 2 * sum(array.size for array in executor.grad_arrays if array is not None)
    allocated = int(pool.split()[1]) * 2**20 + 4 * numbers

    fixed, image = devices.training_memory(symbol, shape, "sgd", "float32", 1)
    assert 1 / 1.3 < (fixed + image * batch_size) / allocated < 1.3


@pytest.mark.parametrize("count", [1, 2])
def test_the_largest_batch_that_fits_is_named_and_fits(machine, count):
    machine(["Tesla T4"] * count, free=4 * GIB)
    symbol, contexts = symbols.get_symbol("alexnet"), [mx.gpu(i) for i in range(count)]
    with pytest.raises(UserError) as caught:
        devices.check_memory(symbol, contexts, *settings(2000))
    largest = int(str(caught.value).split()[-1])
    assert 100 * count < largest < 400 * count
    devices.check_memory(symbol, contexts, *settings(largest))
    with pytest.raises(UserError, match=r"1 \(Tesla T4\)|0 \(Tesla T4\) has 4.0 free"):
        devices.check_memory(symbol, contexts, *settings(largest + count))


def test_a_card_that_is_full_is_told_from_a_batch_that_is_large(machine):
    machine(["Tesla T4"], free=GIB)
    with pytest.raises(UserError, match="not even one image fits"):
        devices.check_memory(symbols.get_symbol("alexnet"), [mx.gpu(0)], *settings(1))


def test_an_optimizer_with_more_states_leaves_less_memory():
    symbol, shape = symbols.get_symbol("alexnet"), (3, 227, 227)
    how = "float32", 1
    sgd, adam = (devices.training_memory(symbol, shape, name, *how)[0] for name in ("sgd", "adam"))
    assert adam == sgd * 4 / 3


def test_the_memory_of_cpus_is_not_asked_for(machine):
    machine([], error=12)
    devices.check_memory(symbols.get_symbol("lenet"), [mx.cpu()], *settings(10**9, "lenet"))


@pytest.mark.parametrize("count", [1, 2])
def test_nccl_is_for_gpus(machine, count):
    machine(["Tesla T4"] * 2)
    devices.check_kv_store("nccl", devices.contexts(list(range(count))))
    with pytest.raises(UserError, match="^--kv-store nccl: works among GPUs only; give --gpus"):
        devices.check_kv_store("nccl", devices.contexts(None, count))


def test_nccl_is_refused_where_mxnet_is_built_without_it(machine):
    machine(["Tesla T4"] * 2, features=("CUDA",))
    contexts = devices.contexts([0, 1])
    devices.check_kv_store("device", contexts)
    with pytest.raises(UserError, match="^--kv-store nccl: .* without NCCL; give --kv-store dev"):
        devices.check_kv_store("nccl", contexts)


@pytest.mark.parametrize(
    "before, tune, deterministic, after",
    [
        (None, None, False, None),  # MXNet's own default
        ("2", None, False, "2"),
        ("2", "off", False, "0"),
        (None, "limited_workspace", False, "1"),
        (None, "fastest", False, "2"),
        (None, None, True, "0"),
        ("2", None, True, "0"),
        (None, "off", True, "0"),
    ],
)
def test_how_cudnn_chooses_is_settled_before_a_network_is_bound(
    machine, monkeypatch, before, tune, deterministic, after
):
    names = "MXNET_CUDNN_AUTOTUNE_DEFAULT", "MXNET_ENFORCE_DETERMINISM"
    environment = {name: value for name, value in os.environ.items() if name not in names}
    if before:
        environment[names[0]] = before
    monkeypatch.setattr(os, "environ", environment)
    machine(["Tesla T4"])
    flags = ["--cudnn-tune", tune] if tune else []
    flags += ["--deterministic"] if deterministic else []
    flags += ["--network", "lenet", "--dataset", "mnist", "--benchmark", 1, "--gpus", 0]
    with pytest.raises(RuntimeError, match="simple_bind"):  # this MXNet has no CUDA
        train(*flags)
    assert [environment.get(name) for name in names] == [after, "1" if deterministic else None]
