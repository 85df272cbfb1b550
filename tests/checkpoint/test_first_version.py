"""What the first version wrote still loads: tests/golden/first-version, made by that version.

LeNet after two epochs of 24 pictures, with its optimizer state, config, record and records:

    python train_imagenet.py --network lenet --dataset mnist --data-train records.rec \
        --model-prefix run --num-epochs 2 --batch-size 8 --deterministic --keep 1
    python score.py --model-prefix run --load-epoch 2 --data-val records.rec --json score.json
"""

import json
import os
import shutil

import numpy as np
import pytest
from conftest import ROOT, run_here, train

import score
from common.checkpoint import store
from common.checkpoint.config import load_config
from common.records.scan import scan_records

MADE_BY_IT = os.path.join(ROOT, "tests", "golden", "first-version")
FLAGS = ["--network", "lenet", "--dataset", "mnist", "--batch-size", 8, "--deterministic"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy, and the working folder, since the record names its records relatively."""
    shutil.copytree(MADE_BY_IT, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def test_its_records_load_without_checksums(folder):
    found = scan_records("records.rec")
    assert (len(found), found.classes) == (24, ["top", "middle", "bottom"])
    assert np.array_equal(found.labels, np.arange(24) % 3)


def test_its_checkpoint_loads_and_scores_as_it_did(folder):
    assert store.newest("run") == (("run", 2), [])
    assert load_config("run")["classes"] == ["top", "middle", "bottom"]
    flags = ["--model-prefix", "run", "--load-epoch", 2, "--data-val", "records.rec"]
    result = run_here(score.main, *flags, "--json", "now.json")
    assert result.returncode == 0, result.stderr
    now, before = (json.loads((folder / name).read_text()) for name in ("now.json", "score.json"))
    assert now["loss"] == pytest.approx(before["loss"], rel=1e-5)
    assert now["right"] == before["right"] and now["interval95"] == before["interval95"]


def test_training_goes_on_from_it(folder):
    flags = ["--data-train", "records.rec", "--model-prefix", "run", "--num-epochs", 3, "--resume"]
    result = train(*FLAGS, *flags)
    assert result.returncode == 0, result.stderr
    assert "resuming from run-0002.params; changed: num_epochs 2 -> 3" in result.stdout
    assert store.load_record("run", 3)["batches"] == 9
