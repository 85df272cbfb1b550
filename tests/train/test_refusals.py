"""A refused command changes no file: every way to be refused, with a finished run in the way."""

import os

import pytest
from conftest import assert_refused, bands, train, write_records

from common.records.writer import create_records

BASE = ["--network", "lenet", "--dataset", "mnist", "--batch-size", 16, "--num-epochs", 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run ``x`` of two epochs, its records, and other records that do not fit."""
    folder = tmp_path_factory.mktemp("refusals")
    names = ["top", "middle", "bottom"]
    write_records(folder / "train", *bands(50, seed=1), names)
    write_records(folder / "val", *bands(20, seed=2), names)
    write_records(folder / "other", *bands(48, seed=3), names)
    write_records(folder / "renamed", *bands(20, seed=2), ["a", "b", "c"])
    write_records(folder / "unnamed", *bands(50, seed=1), names[:2])
    whole = (folder / "train.rec").read_bytes()
    (folder / "cut.rec").write_bytes(whole[: len(whole) // 2])
    with create_records(str(folder / "undecodable"), names) as writer:
        for label in range(3):
            for _ in range(6):
                writer.write(label, b"\xff\xd8\xff\xe0 and no picture")
    result = train(*BASE, "--data-train", folder / "train.rec", "--model-prefix", folder / "x")
    assert result.returncode == 0, result.stderr
    (folder / "x-0003.params.tmp5").touch()  # left over by a run that was killed
    return folder


def contents(folder):
    """Name -> bytes of every file below ``folder``."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


REFUSED = [
    # Numbers out of their range.
    *(["--overwrite", flag, value] for flag in ("--seed", "--lr") for value in ("-1", "nan")),
    *(["--overwrite", "--lr", value] for value in ("0", "inf", "1e999", "x")),
    *(["--overwrite", flag, "-1"] for flag in ("--wd", "--mom", "--warmup-epochs", "--keep")),
    *(["--overwrite", flag, "0"] for flag in ("--save-minutes", "--loss-scale", "--lr-factor")),
    *(["--overwrite", flag, "-1"] for flag in ("--skip-nonfinite", "--load-epoch")),
    ["--overwrite", "--seed", "4294967296"],
    ["--overwrite", "--seed", "1.5"],
    ["--overwrite", "--mom", "1"],
    ["--overwrite", "--model-parallel", "--cpus", "2"],  # lenet has no columns
    ["--overwrite", "--model-parallel"],
    ["--overwrite", "--wd", "inf"],
    ["--overwrite", "--lr-factor", "2", "--lr-step-epochs", "1", "--lr-schedule", "step"],
    ["--overwrite", "--lr-step-epochs", "2,1"],
    ["--overwrite", "--lr-step-epochs", "0,1"],
    ["--overwrite", "--lr-step-epochs", "1,1.01", "--lr-schedule", "step"],
    ["--overwrite", "--warmup-epochs", "2"],
    ["--overwrite", "--rgb-std", "0"],
    ["--overwrite", "--rgb-mean", "1,2"],
    ["--overwrite", "--rgb-std", "nan"],
    ["--overwrite", "--rgb-mean", "inf"],
    ["--overwrite", "--top-k", "3"],
    ["--overwrite", "--num-classes", "7"],
    ["--overwrite", "--num-examples", "51"],
    ["--overwrite", "--num-examples", "15"],
    ["--overwrite", "--batch-size", "51"],
    ["--overwrite", "--resize", "31"],
    ["--overwrite", "--image-shape", "1,9,9"],
    ["--overwrite", "--cpus", "17"],
    # An image that MXNet cannot decode: found out by the first batch.
    ["--overwrite", "--data-train", "{folder}/undecodable.rec"],
    # Augmentation.
    [
        "--overwrite",
        "--random-resized-crop",
        "1",
        "--min-random-area",
        ".5",
        "--max-random-area",
        9,
    ],
    ["--overwrite", "--image-shape", "3,32,32", "--rgb-mean", "0,0,0", "--rgb-std", "1,1,1"]
    + ["--max-random-h", "999"],
    # Devices.
    ["--overwrite", "--gpus", "0"],
    ["--overwrite", "--kv-store", "nccl"],
    ["--overwrite", "--dtype", "float16"],
    ["--overwrite", "--cudnn-tune", "off"],
    # Words that are unknown.
    ["--overwrite", "--network", "alexnot"],
    ["--overwrite", "--dataset", "cifar100"],
    ["--overwrite", "--optimizer", "lion"],
    ["--overwrite", "--initializer", "zero"],
    ["--overwrite", "--lr-schedule", "poly"],
    ["--overwrite", "--model", "x"],
    ["--overwrite", "--no-such-flag"],
    ["--overwrite", "--pca-noise", ".1"],
    ["--overwrite", "--min-random-scale", "2"],
    ["--overwrite", "--benchmark", "1", "--test-io", "1"],
    # Records.
    ["--overwrite", "--data-train", "{folder}/none.rec"],
    ["--overwrite", "--data-train", "{folder}/cut.rec"],
    ["--overwrite", "--data-train", "{folder}/unnamed.rec"],
    ["--overwrite", "--data-train", "{folder}"],
    ["--overwrite", "--data-val", "{folder}/none.rec"],
    ["--overwrite", "--data-val", "{folder}/cut.rec"],
    ["--overwrite", "--data-val", "{folder}/renamed.rec"],
    # Checkpoints in the way, and going on with what does not fit.
    [],
    ["--load-epoch", "1"],
    ["--load-epoch", "9"],
    ["--load-epoch", "1", "--overwrite", "--mom", "0"],
    ["--load-epoch", "1", "--overwrite", "--optimizer", "adam"],
    ["--resume", "--overwrite"],
    ["--resume", "--load-epoch", "1"],
    ["--resume", "--mom", "0", "--rgb-mean", "0"],
    ["--resume", "--optimizer", "adam"],
    ["--resume", "--batch-size", "8"],
    ["--resume", "--seed", "1"],
    ["--resume", "--data-train", "{folder}/other.rec"],
    ["--resume", "--num-examples", "32"],
    ["--resume", "--lr-factor", "2"],
    # Fine-tuning.
    ["--overwrite", "--pretrained", "{folder}/x"],
    ["--overwrite", "--pretrained", "{folder}/x", "--pretrained-epoch", "9"],
    ["--overwrite", "--pretrained", "{folder}/x", "--pretrained-epoch", "1"],
    ["--overwrite", "--pretrained", "{folder}/none", "--pretrained-epoch", "1"],
    ["--overwrite", "--pretrained", "{folder}/x", "--pretrained-epoch", "1", "--freeze", "xyz"],
    ["--overwrite", "--freeze", "c1"],
]


@pytest.mark.parametrize("flags", REFUSED, ids=lambda flags: " ".join(map(str, flags)) or "none")
def test_a_refused_run_changes_no_file(folder, flags):
    before = contents(folder)
    given = [str(flag).format(folder=folder) for flag in flags]
    own = ["--data-train", folder / "train.rec", "--model-prefix", folder / "x"]
    assert_refused(train(*BASE, *own, *given))
    assert contents(folder) == before


def test_a_refused_run_makes_no_folder(folder, tmp_path):
    own = ["--data-train", folder / "train.rec", "--model-prefix", tmp_path / "new" / "x"]
    assert_refused(train(*BASE, *own, "--lr-step-epochs", "1,1.01", "--lr-schedule", "step"))
    assert os.listdir(tmp_path) == []


def test_what_a_killed_run_has_left_over_is_removed_by_the_next_that_trains(folder, tmp_path):
    prefix = tmp_path / "y"
    (tmp_path / "y-0003.params.tmp5").touch()
    own = ["--data-train", folder / "train.rec", "--model-prefix", prefix, "--num-epochs", 1]
    assert train(*BASE, *own).returncode == 0
    assert not any(".tmp" in name for name in os.listdir(tmp_path))
