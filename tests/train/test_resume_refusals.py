"""A checkpoint that does not fit the flags, or is damaged, is not gone on with."""

import os
import shutil
from types import SimpleNamespace

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import (
    assert_refused,
    assert_same_arrays,
    bands,
    contents,
    run_here,
    train,
    write_records,
)

import predict
import score
from common.checkpoint import store
from common.io.lock import lock


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Training records of other images, and of four classes."""
    folder = tmp_path_factory.mktemp("others")
    images, labels = bands(100, seed=9)
    return SimpleNamespace(
        images=write_records(folder / "images", images, labels),
        classes=write_records(folder / "classes", images, np.arange(100) % 4),
    )


ALEXNET = ["--network", "alexnet", "--dataset", "cifar10", "--image-shape", "1,67,67"]
ALEXNET += ["--rgb-mean", "90", "--rgb-std", "60", "--pca-noise", 0, "--batch-size", 16]


@pytest.mark.parametrize(
    "change, words",
    [
        (ALEXNET, ["--network alexnet", "lenet"]),
        (["--data-train", "classes"], ["--num-classes 4", "trained with 3"]),
        (["--image-shape", "1,36,36"], ["--image-shape", "36", "32"]),
        (["--optimizer", "adam"], ["--optimizer adam", "sgd"]),
        (["--mom", 0], ["--optimizer, --mom"]),
        (["--batch-size", 20], ["--batch-size 20", "16"]),
        (["--num-examples", 90], ["--num-examples 90", "its default"]),
        (["--seed", 1], ["--seed 1", "0"]),
        (["--top-k", 1], ["--top-k 1", "2"]),
        (["--data-train", "images"], ["images.rec", "other records"]),
        (["--benchmark", 1, "--num-classes", 3], ["other records"]),
    ],
    ids=lambda value: str(value[0]).replace(" ", "") if isinstance(value, list) else None,
)
@pytest.mark.parametrize("way", [["--resume"], ["--load-epoch", 2]], ids=["resume", "load-epoch"])
def test_what_does_not_fit_is_refused_in_one_line(flags, finished, others, change, words, way):
    change = [vars(others).get(value, value) for value in change]
    before = contents(finished.parent)
    result = train(*flags, *change, "--model-prefix", finished, *way)
    assert_refused(result, *words)
    before.pop("x-log.jsonl"), before.pop("x-config.json")
    after = contents(finished.parent)
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {"x-log.jsonl", "x-config.json"}


@pytest.mark.parametrize(
    "change, words",
    [
        (["--resume", "--load-epoch", 1], "--resume and --load-epoch"),
        (["--resume", "--overwrite"], "--resume and --overwrite"),
        (["--save-minutes", 0], "--save-minutes"),
        (["--keep", 0], "--keep"),
        (["--save-period", 0], "--save-period"),
        (["--num-examples", 5], "--batch-size 16"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, tmp_path, change, words):
    assert_refused(train(*flags, "--model-prefix", tmp_path / "x", *change), words)


@pytest.mark.parametrize(
    "flag",
    [["--resume"], ["--load-epoch", 1], ["--overwrite"], ["--save-minutes", 1], ["--keep", 1]],
)
def test_flags_of_checkpoints_need_a_prefix(flags, flag):
    assert_refused(train(*flags, *flag), flag[0], "--model-prefix")


def damage(path):
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 64]))


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(flags, finished, copied):
    flags = [*flags, "--model-prefix", copied]
    damage(f"{copied}-0002-optimizer.params")
    assert_refused(train(*flags, "--load-epoch", 2), f"{copied}-0002-optimizer.params", "damaged")
    result = train(*flags, "--resume")
    assert result.returncode == 0, result.stderr
    assert f"not used: {copied}-0002-optimizer.params: is damaged" in result.stdout
    assert f"resuming from {copied}-0001.params" in result.stdout
    assert_same_arrays(f"{copied}-0002-optimizer.params", f"{finished}-0002-optimizer.params")


def test_with_all_damaged_it_neither_goes_on_nor_begins_anew(flags, copied):
    damage(f"{copied}-symbol.json")
    before = contents(copied.parent)
    result = train(*flags, "--model-prefix", copied, "--resume")
    assert_refused(result, "--resume", str(copied), "--overwrite")
    assert result.stdout.count("not used: ") == 2
    assert before.items() <= contents(copied.parent).items()
    assert train(*flags, "--model-prefix", copied, "--overwrite").returncode == 0
    store.verify(str(copied), 2)


def test_a_checkpoint_of_stock_mxnet_is_used_but_not_gone_on_with(flags, small, finished, tmp_path):
    network = mx.model.load_checkpoint(str(finished), 2)
    prefix = tmp_path / "stock"
    mx.model.save_checkpoint(str(prefix), 2, *network)
    shutil.copy(f"{finished}-config.json", f"{prefix}-config.json")
    for way in (["--load-epoch", 2], ["--resume"]):
        result = train(*flags, "--model-prefix", prefix, *way)
        assert_refused(result, f"{prefix}-0002.")
        assert "--resume continues it" not in result.stderr
    chosen = ["--model-prefix", prefix, "--load-epoch", 2]
    assert "33 images" in run_here(score.main, *chosen, "--data-val", small.val).stdout
    cv2.imwrite(str(tmp_path / "x.png"), bands(1, seed=3)[0][0])
    assert run_here(predict.main, *chosen, tmp_path / "x.png").returncode == 0


def test_a_second_run_at_the_same_prefix_is_refused(flags, copied):
    before = contents(copied.parent)
    with lock(str(copied)):
        result = train(*flags, "--model-prefix", copied, "--overwrite")
    assert_refused(result, f"--model-prefix {copied}", f"process {os.getpid()} on ")
    assert contents(copied.parent) == before
