"""train_imagenet.py and predict.py, run as a user runs them."""

import json
import os
import re

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT, assert_refused, bands, run_script, train, write_records

from common import cli
from common.input.flags import add_data_args
from common.train.flags import add_train_args
from common.train.recipes import RECIPES, recipe
from common.train.schedule import LearningRate, Length
from symbols import options

QUICK = ["--network", "lenet", "--dataset", "mnist", "--num-epochs", "3", "--batch-size", "16"]


@pytest.fixture(scope="module")
def trained(grey, tmp_path_factory):
    """LeNet on grey bands: the finished process, and its --model-prefix."""
    prefix = tmp_path_factory.mktemp("trained") / "folder" / "lenet"
    flags = ["--data-train", grey.train, "--data-val", grey.val, "--model-prefix", prefix]
    result = run_script("train_imagenet.py", *QUICK, *flags)
    assert result.returncode == 0, result.stderr
    return result, prefix


def events(prefix, kind):
    with open(f"{prefix}-log.jsonl") as file:
        return [line for line in map(json.loads, file) if line["event"] == kind]


def test_it_learns(trained):
    _, prefix = trained
    epochs = events(prefix, "epoch")
    assert len(epochs) == 3
    assert epochs[-1]["val"]["top-1"] > 0.95
    assert epochs[-1]["val"]["loss"] < epochs[0]["val"]["loss"]


def test_what_it_says_is_what_it_logs(trained):
    result, prefix = trained
    last = events(prefix, "epoch")[-1]
    assert f"top-1 {last['val']['top-1']:.1%}" in result.stdout
    assert "expect" in result.stdout and "+num-epochs 3" in result.stdout
    assert result.stderr == ""  # neither MXNet nor a progress bar talks into a pipe


def test_a_checkpoint_of_each_epoch_is_what_stock_mxnet_loads(trained, grey):
    _, prefix = trained
    for epoch in (1, 2, 3):
        symbol, arg_params, aux_params = mx.model.load_checkpoint(str(prefix), epoch)
    module = mx.mod.Module(symbol)
    module.bind([("data", (101, 1, 32, 32))], [("softmax_label", (101,))], for_training=False)
    module.set_params(arg_params, aux_params)
    images, labels = bands(101, seed=2)
    data = (np.array(images, np.float32).transpose(0, 3, 1, 2) - 20) / 200
    module.forward(mx.io.DataBatch([mx.nd.array(data)], [mx.nd.array(labels)]), is_train=False)
    guessed = module.get_outputs()[0].asnumpy().argmax(axis=1)
    assert np.mean(guessed == labels) == events(prefix, "epoch")[-1]["val"]["top-1"]


def test_readmes_lines_of_inference_run(trained):
    _, prefix = trained
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        code = file.read().split("```python\n")[1].split("```")[0]
    code = code.replace("checkpoints/alexnet-cifar10", str(prefix)).replace(
        "3, 67, 67", "1, 32, 32"
    )
    result = run_script("-c", "import common.runtime.mxnet\n" + code)
    assert result.stdout.strip() in ("0", "1", "2"), result.stderr


def test_the_checkpoint_names_a_picture(trained, tmp_path):
    _, prefix = trained
    picture = bands(2, seed=3)[0][1]
    cv2.imwrite(str(tmp_path / "one.png"), picture)
    flags = ["--model-prefix", prefix, "--load-epoch", 3]
    result = run_script("predict.py", *flags, tmp_path / "one.png")
    assert result.returncode == 0, result.stderr
    assert "middle" in result.stdout.splitlines()[1]
    (tmp_path / "text.jpg").write_text("text")
    result = run_script("predict.py", *flags, tmp_path / "text.jpg")
    assert result.returncode == 1 and "text.jpg: is not a picture" in result.stderr
    assert_refused(
        run_script("predict.py", "--model-prefix", prefix, "--load-epoch", 9, "x.jpg"), "0009"
    )


def test_an_earlier_runs_checkpoints_are_not_lost(trained, grey):
    _, prefix = trained
    flags = [*QUICK, "--data-train", grey.train, "--model-prefix", prefix]
    assert_refused(run_script("train_imagenet.py", *flags), "--overwrite")
    mx.model.load_checkpoint(str(prefix), 3)


def test_devices_share_a_batch_to_the_same_result(grey, tmp_path):
    losses = []
    for cpus in (1, 2, 3):
        prefix = tmp_path / f"on{cpus}"
        flags = [*QUICK, "--num-epochs", 1, "--cpus", cpus, "--data-nthreads", 1]
        data = ["--data-train", grey.train, "--data-val", grey.val, "--model-prefix", prefix]
        assert run_script("train_imagenet.py", *flags, *data).returncode == 0
        losses.append(events(prefix, "epoch")[0]["val"]["loss"])
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=1e-4)


def test_alexnet_trains_on_small_images_through_the_whole_recipe(tmp_path):
    images, labels = bands(40, seed=1, size=32, channels=3)
    path = write_records(tmp_path / "x", images, labels)
    flags = ["--dataset", "cifar10", "--batch-size", 16, "--num-epochs", 1]
    result = run_script("train_imagenet.py", *flags, "--data-train", path, "--data-val", path)
    assert result.returncode == 0, result.stderr
    assert "val loss" in result.stdout


def test_benchmark_needs_no_data_and_test_io_no_network(grey):
    flags = [*QUICK, "--num-epochs", 1]
    synthetic = run_script("train_imagenet.py", *flags, "--benchmark", 1, "--num-classes", 10)
    assert "img/s" in synthetic.stdout and synthetic.returncode == 0
    reading = ["--data-train", grey.train, "--test-io", 1]
    read = run_script("train_imagenet.py", *flags, *reading)
    assert "reading" in read.stdout and "loss" not in read.stdout


def test_a_run_says_how_long_it_will_take_and_a_resumed_one_how_long_the_rest(small, tmp_path):
    prefix = tmp_path / "x"  # 7 batches an epoch, the 22nd is in the fourth
    flags = [*QUICK, "--data-train", small.train, "--model-prefix", prefix]
    first = train(*flags, "--num-epochs", 5)
    assert re.search(r"about \d+ seconds for 5 epochs at \d+ img/s, validation not", first.stdout)
    rest = train(*flags, "--num-epochs", 9, "--resume")
    assert re.search(r"about \d+ seconds for the 3.88 epochs left at \d+ img/s", rest.stdout)
    (first, rest) = events(prefix, "forecast")
    assert first["seconds"] == pytest.approx(500 / first["img_per_s"], abs=1)
    assert rest["seconds"] == pytest.approx(388 / rest["img_per_s"], abs=1)


def test_what_flags_change_is_shown_whether_the_recipe_has_it_or_not():
    flags = ["--benchmark", 1, "--num-examples", 16, "--batch-size", 16, "--max-random-scale", 1.2]
    result = run_script("train_imagenet.py", *QUICK, "--num-classes", 10, *flags)
    said = " ".join(result.stdout.split())
    assert "lr 0.05" in said and "+lr" not in said
    assert "+batch-size 16" in said and "+max-random-scale 1.2" in said


@pytest.mark.parametrize("name", RECIPES, ids="-".join)
def test_a_recipe_sets_nothing_but_flags(name):
    parser = cli.ArgumentParser()
    add_train_args(parser)
    add_data_args(parser)
    options.add_args(parser)
    assert RECIPES[name].settings.keys() <= vars(parser.parse_args([])).keys()


def test_a_users_network_gets_no_option_of_the_projects_own():
    followed = recipe("symbols/mine.py", "photos")
    assert not set(options.NAMES) & followed.settings.keys()
    assert set(options.NAMES) & recipe("alexnet", "photos").settings.keys()


def test_reading_alone_loses_no_checkpoint(trained, grey):
    _, prefix = trained
    flags = ["--data-train", grey.train, "--model-prefix", prefix, "--overwrite", "--test-io", 1]
    assert run_script("train_imagenet.py", *QUICK, *flags).returncode == 0
    mx.model.load_checkpoint(str(prefix), 3)


LENET = ["--network", "lenet", "--dataset", "mnist"]


def rates(**flags):
    """The learning rate of each of 40 updates, ten an epoch."""
    schedule = LearningRate(1.0, **flags).scheduler(Length(100, 10, 4))
    return [schedule(update) for update in range(1, 41)]


@pytest.mark.parametrize("shape", ["step", "linear", "cosine"])
def test_warm_up_rises_evenly_and_then_the_schedule_goes_on(shape):
    found = rates(schedule=shape, step_epochs=(3,), warmup_epochs=1.5)
    np.testing.assert_allclose(found[:14], np.arange(1, 15) / 15)
    assert found[14] == 1
    assert all(a >= b for a, b in zip(found[14:], found[15:]))
    assert found[-1] == pytest.approx(0.1 if shape == "step" else 0, abs=0.005)


def test_after_warm_up_a_schedule_without_steps_is_constant():
    assert rates(warmup_epochs=1)[9:] == [1.0] * 31


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--network", "alexnot"], ["--network", "alexnot", "alexnet2012"]),
        (["--dataset", "cifar100"], ["--dataset cifar100", "imagenet"]),
        (["--model", "x"], ["--model"]),  # no abbreviation of --model-prefix
        (["--image-shape", "3,227"], ["--image-shape", "3,227"]),
        (["--lr-step-epochs", "30;60"], ["--lr-step-epochs", "30;60"]),
        (["--lr-step-epochs", "60,30"], ["--lr-step-epochs"]),
        (["--warmup-epochs", "90"], ["--warmup-epochs 90", "--num-epochs 90"]),
        (["--gpus", "zero"], ["--gpus", "zero"]),
        (["--lr", "0"], ["--lr"]),
        (["--batch-size", "2", "--cpus", "3"], ["--batch-size"]),
        ([], ["--data-train"]),
        (["--data-train", "none.rec"], ["none.rec"]),
        (["--benchmark", "1", "--test-io", "1"], ["--benchmark and --test-io"]),
        (["--benchmark", "1", "--kv-store", "nccl", "--cpus", "2"], ["--kv-store nccl", "--gpus"]),
        (["--cudnn-tune", "fast"], ["--cudnn-tune", "fastest"]),
        (["--cudnn-tune", "fastest"], ["--cudnn-tune fastest", "--gpus"]),
        (
            ["--cudnn-tune", "fastest", "--gpus", "0", "--deterministic"],
            ["--cudnn-tune fastest", "--deterministic"],
        ),
        (["--benchmark", "1", "--image-shape", "3,60,60"], ["3,67,67"]),
        (["--benchmark", "1", "--num-classes", "5", "--top-k", "5"], ["--top-k 5"]),
    ],
)
def test_bad_flags_are_refused_in_one_line(flags, words):
    assert_refused(run_script("train_imagenet.py", *flags), *words)


def test_a_gpu_is_refused_by_the_cpu_build():
    if mx.runtime.Features().is_enabled("CUDA"):
        pytest.skip("this is a CUDA build")
    assert_refused(run_script("train_imagenet.py", "--gpus", "0,1", "--benchmark", 1), "--gpus 0,1")


def test_bad_records_are_refused_in_one_line(grey, tmp_path):
    with open(grey.train, "rb") as file:
        whole = file.read()
    cut, other = tmp_path / "cut.rec", tmp_path / "other.rec"
    cut.write_bytes(whole[: len(whole) // 2 // 4 * 4])
    other.write_bytes(b"no record file at all")
    train = ["train_imagenet.py", *LENET, "--data-train"]
    assert_refused(run_script(*train, cut), "cut.rec", "cut off")
    assert_refused(run_script(*train, other), "other.rec", "not an MXNet record file")
    assert_refused(run_script(*train, grey.train, "--batch-size", 601), "--batch-size 601")
    assert_refused(run_script(*train, grey.train, "--num-classes", 10), "--num-classes 10")
    images, _ = bands(3, seed=1)
    labels = write_records(tmp_path / "labels", images, [0, 1, 3])
    assert_refused(run_script(*train, grey.train, "--data-val", labels), "labels.rec", "label 3")
