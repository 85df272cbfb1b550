"""make_classifier.py: a folder in, a classifier out; LeNet in this process for the quick tests."""

import json
import os
import shlex

import numpy as np
import pytest
from conftest import assert_refused, run_here
from pictures import file, photo, write_tree
from small_checkpoints import save_lenet

import make_classifier
import predict
import score
import show
import train_imagenet
from common.checkpoint import store
from common.checkpoint.config import load_config
from common.io.files import write_json
from common.train import recipes
from data import folder

MAINS = {
    "data.folder": folder.main,
    "train_imagenet.py": train_imagenet.main,
    "score.py": score.main,
    "show.py": show.main,
}


@pytest.fixture
def photos(tmp_path):
    """Two classes of 25 pictures, one dark and one light, in a folder with a space."""
    files = {
        f"{name}/{i}.png": file(".png", photo(40, 40, seed=100 * dark + i) // 2 + dark)
        for name, dark in (("dark é", 0), ("light", 120))
        for i in range(25)
    }
    return write_tree(tmp_path / "my photos", files)


@pytest.fixture
def here(monkeypatch):
    """Steps run in this process, fine-tuning LeNet; call ``fail_at`` to have one fail once."""
    done, failing = [], []

    def execute(command, _output, _stop):
        name, flags = command[1], command[2:]
        if name == "-m":
            name, flags = command[2], command[3:]
        name = os.path.basename(name)
        done.append(name)
        if name in failing:
            failing.remove(name)
            return 1
        result = run_here(MAINS[name], *flags)
        print(result.stdout, result.stderr)
        return result.returncode

    monkeypatch.setattr(make_classifier, "execute", execute)
    monkeypatch.setattr(make_classifier, "speed", lambda *_: 40 * 3 / 60 / 0.5)
    small = recipes.Recipe("", "", {**recipes.recipe("lenet", "mnist").settings, "batch_size": 4})
    monkeypatch.setitem(recipes.RECIPES, ("lenet", "photos"), small)
    return done, failing


@pytest.fixture
def flags(photos, tmp_path):
    prefix = str(tmp_path / "start")
    save_lenet(prefix, ["a", "b"])
    config = load_config(prefix)
    config["args"]["network"] = "lenet"
    write_json(f"{prefix}-config.json", config)
    start = store.params_path(prefix, 1)
    return [photos, "--out", tmp_path / "mine", "--minutes", 0.5, "--from", start]


def changes(folder):
    return {path: path.stat().st_ctime_ns for path in folder.rglob("*")}


def test_a_folder_becomes_a_classifier_and_stays_as_it_was(here, photos, flags, tmp_path):
    pytest.importorskip("matplotlib")
    before = changes(photos)
    result = run_here(make_classifier.main, *flags)
    assert result.returncode == 0, result.stderr + result.stdout
    assert here[0] == ["data.folder", "train_imagenet.py", "score.py", "show.py"]
    assert changes(photos) == before
    with open(tmp_path / "mine" / "score.json") as figures:
        score = json.load(figures)
    assert score["images"] == 10 and score["temperature"] > 0
    assert {"confusion.png", "confusion.csv"} <= set(os.listdir(tmp_path / "mine"))
    command = result.stdout.rpartition("predict.py")[2].partition(" PICTURE")[0].split()
    longer = shlex.split(result.stdout.rstrip().rpartition("train_imagenet.py")[2])
    assert run_here(train_imagenet.main, *longer).returncode == 0
    assert list((tmp_path / "mine").glob("longer-????.params"))
    assert run_here(make_classifier.main, *flags).returncode == 0  # what it made is still there
    named = run_here(predict.main, *command, photos / "light" / "1.png")
    assert named.returncode == 0, named.stderr


@pytest.mark.parametrize("step", ["data.folder", "train_imagenet.py", "score.py"])
def test_after_a_failed_step_the_same_command_goes_on(here, flags, step):
    done, failing = here
    failing.append(step)
    assert run_here(make_classifier.main, *flags).returncode == 1
    first = len(done)
    assert run_here(make_classifier.main, *flags).returncode == 0
    assert done[first] == ("data.folder" if step == "data.folder" else "train_imagenet.py")


def test_what_cannot_be_is_refused_and_nothing_is_written(here, photos, flags, tmp_path):
    assert_refused(
        run_here(make_classifier.main, photos, "--out", photos / "light" / "x"), "is inside"
    )
    assert_refused(run_here(make_classifier.main, *flags[:-1], "x.params"), "no checkpoint's file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    refused = run_here(make_classifier.main, photos, "--out", tmp_path / "full")
    assert_refused(refused, "full: holds other files; give a new folder")
    assert run_here(make_classifier.main, tmp_path / "none", *flags[1:]).returncode == 2
    assert not (tmp_path / "mine").exists() and not here[0][1:]


def test_too_few_pictures_are_refused_with_the_number_needed(here, photos, flags):
    for path in photos.rglob("1?.png"):
        path.unlink()
    assert_refused(
        run_here(make_classifier.main, *flags), "24 images to train on are too few; 32 are needed"
    )


def test_a_folder_that_was_begun_with_other_flags_is_refused(here, flags):
    here[1].append("train_imagenet.py")
    assert run_here(make_classifier.main, *flags).returncode == 1
    other = [*flags[:4], 3, *flags[5:]]
    assert_refused(run_here(make_classifier.main, *other), "was begun with minutes 0.5, not 3.0")


@pytest.mark.parametrize(
    "images, seconds, chosen",
    [
        (1000, 1800, (131, 54)),  # 30 epochs at 131 px, none larger
        (1000, 60, (67, 6)),
        (100000, 60, (67, 2)),
        (100, 36000, (227, 150)),
    ],
)
def test_the_largest_side_with_enough_epochs_is_chosen(images, seconds, chosen):
    speeds = dict(zip((227, 131, 67), (10.0, 30.0, 100.0)))
    assert make_classifier.choose(speeds, images, seconds) == chosen


def test_speeds_of_all_sides_follow_from_two(monkeypatch):
    def speed(flags, *_):
        side = int(flags[flags.index("--image-shape") + 1].split(",")[1])
        return 1 / (0.01 + 1e-6 * side**2)

    monkeypatch.setattr(make_classifier, "speed", speed)
    args = type("Args", (), {"out": "x", "start": None})
    found = make_classifier.measure(args, 100)
    assert list(found) == sorted(found, reverse=True)
    assert np.allclose([1 / rate for rate in found.values()], [0.01 + 1e-6 * s**2 for s in found])
