"""show.py, on a small network with random weights."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import assert_refused, bands, run_here, run_script, write_records
from pictures import photo
from small_checkpoints import save_int8, save_lenet

pytest.importorskip("matplotlib")

import show  # noqa: E402
from common.checkpoint import store  # noqa: E402
from common.evaluate import nearest, occlusion  # noqa: E402
from common.evaluate.classifier import Classifier  # noqa: E402

CLASSES = ["top", "middle", "bottom"]


@pytest.fixture
def made(tmp_path):
    """A checkpoint, a picture and 20 records, the 4th of which is that picture."""
    prefix, picture = str(tmp_path / "x"), str(tmp_path / "a.png")
    save_lenet(prefix, CLASSES)
    images, labels = bands(20, seed=1, size=40, channels=3)
    images[3] = photo(40, 40)
    cv2.imwrite(picture, images[3])
    records = write_records(tmp_path / "train", images, labels, CLASSES)
    flags = ["--model-prefix", prefix, "--load-epoch", 1, "--out", tmp_path / "x.png"]
    return SimpleNamespace(prefix=prefix, picture=picture, records=records, flags=flags)


def draw(*flags):
    return run_here(show.main, *flags)


@pytest.mark.parametrize("command", ["kernels", "maps", "where", "nearest", "mistakes", "network"])
def test_each_command_writes_its_picture(made, command, tmp_path):
    flags = {
        "kernels": made.flags,
        "maps": [made.picture, *made.flags],
        "where": [made.picture, *made.flags, "--class-name", "middle"],
        "nearest": [*made.flags, made.picture, "--data-train", made.records, "--layer", "f6"],
        "mistakes": [*made.flags, "--data-val", made.records],
        "network": ["lenet", "--out", tmp_path / "x.png"],
    }
    result = draw(command, *flags[command])
    assert result.returncode == 0, result.stderr
    drawn = cv2.imread(str(tmp_path / "x.png"))
    assert drawn.shape[1] > 1000 and drawn.std() > 1
    assert (tmp_path / "x.png").stat().st_size < 200_000
    assert result.stdout.splitlines()[-1] == f"wrote {tmp_path / 'x.png'}"


def test_an_int8_network_has_no_kernels_to_show(made, tmp_path):
    save_int8(str(tmp_path / "small"), made.prefix, CLASSES)
    flags = "--model-prefix", tmp_path / "small"
    assert_refused(draw("kernels", *made.flags, *flags), "no layer Convolution")


def test_it_runs_as_a_program(tmp_path):
    result = run_script("show.py", "network", "alexnet2012", "--out", tmp_path / "x.svg")
    assert result.returncode == 0, result.stderr
    assert b"<svg" in (tmp_path / "x.svg").read_bytes()


def test_mistakes_are_refused_in_one_line(made, tmp_path):
    picture, flags = made.picture, made.flags
    assert_refused(draw("maps", tmp_path / "none.png", *flags), "none.png")
    assert_refused(draw("maps", made.records, *flags), "is not a picture")
    assert_refused(draw("maps", picture, *flags, "--layers", "conv9"), "conv9", "c1")
    assert_refused(draw("maps", picture, *flags, "--layers", "f6"), "f6", "84 numbers")
    for layers in ("", "c1,", ",c1"):
        assert_refused(draw("maps", picture, *flags, "--layers", layers), "--layers", "such as")
    assert_refused(draw("where", picture, *flags, "--class-name", "cat"), "cat", "middle")
    assert_refused(draw("nearest", picture, *flags, "--data-train", made.records), "fc2", "f6")
    not_records = ["--layer", "f6", "--data-train", picture]
    assert_refused(draw("nearest", picture, *flags, *not_records), picture)
    assert_refused(draw("network", "resnet", *flags[-2:]), "resnet")
    small = "--image-shape", "3,20,20"
    assert_refused(draw("network", "alexnet", *small, *flags[-2:]), "--image-shape")
    assert_refused(draw("kernels", *flags[:-1], tmp_path / "x.gif"), "x.gif")
    assert_refused(draw("kernels", *flags, "--load-epoch", 7), "no such checkpoint")
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("command", ["kernels", "maps", "where", "nearest"])
def test_a_network_that_has_diverged_is_refused(made, command, tmp_path):
    symbol, *weights = store.load(made.prefix, 1)
    weights[0]["c3_bias"][1] = np.nan
    store.save(made.prefix, 2, symbol, *weights)
    given = [] if command == "kernels" else [made.picture]
    given += ["--data-train", made.records] if command == "nearest" else []
    refused = draw(command, *given, *made.flags, "--load-epoch", 2)
    assert_refused(refused, "x-0002.params: c3_bias is not finite")
    assert not (tmp_path / "x.png").exists()


def test_records_with_other_class_names_are_refused(made, tmp_path):
    images, labels = bands(20, seed=1, size=40, channels=3)
    other = write_records(tmp_path / "other", images, labels, CLASSES[::-1])
    flags = [*made.flags, made.picture, "--data-train", other, "--layer", "f6"]
    assert_refused(draw("nearest", *flags), "other.rec", "other names")
    assert not list(tmp_path.glob("*index*"))


def test_an_index_is_of_another_file_when_a_record_in_its_middle_changes(made, tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (60, 40, 40, 3), np.uint8)  # 290 KB
    records = write_records(tmp_path / "large", images, np.arange(60) % 3, CLASSES)
    flags = [*made.flags, made.picture, "--data-train", records, "--layer", "f6"]
    assert draw("nearest", *flags).returncode == 0
    sums = records.replace(".rec", "-checksums.npy")
    rows = np.load(sums)
    rows["crc32"][30] ^= 1
    np.save(sums, rows)
    assert_refused(draw("nearest", *flags), "index.npy", "checksums")


def test_heat_is_the_mean_drop_of_the_patches_over_a_pixel(made):
    classifier = Classifier(made.prefix, 1, batch_size=7)
    plan = occlusion.plan(classifier.prepare(made.picture))
    whole, *hidden = classifier.outputs(plan.hidden())
    assert len(hidden) == len(plan.corners)
    top, left = plan.corners[40]
    covered = plan.image.copy()
    covered[:, top : top + plan.patch, left : left + plan.patch] = 0
    assert next(classifier.outputs([covered])) == pytest.approx(hidden[40], abs=1e-6)
    drops = np.arange(len(plan.corners), dtype=float)
    heat = plan.heat(drops)
    assert heat.shape == (32, 32) and np.isfinite(heat).all()
    for y, x in ((0, 0), (31, 31), (13, 20)):
        over = [
            drop
            for (top, left), drop in zip(plan.corners, drops)
            if top <= y < top + plan.patch and left <= x < left + plan.patch
        ]
        assert heat[y, x] == pytest.approx(np.mean(over))


def test_what_the_network_sees_can_be_shown_again(made):
    classifier = Classifier(made.prefix, 1)
    prepared = classifier.prepare(made.picture)
    shown = classifier.preparation.shown(prepared)
    again = classifier.preparation
    same = type(again)(again.image_shape, None, again.mean, again.std).apply(shown[..., ::-1])
    assert same == pytest.approx(prepared, abs=0.011)  # half a grey level, in units of the std


def open_index(made):
    classifier = Classifier(made.prefix, 1, batch_size=8)
    records = show.pipeline.checked_records(made.records, 3)
    return classifier, nearest.open_index(None, classifier, "f6", records)


def test_the_nearest_picture_is_the_picture_itself(made):
    classifier, index = open_index(made)
    assert index.shape == (20, 84)
    row = next(classifier.outputs([classifier.prepare(made.picture)], "f6"))
    found = nearest.nearest(index, row, 5)
    distances = np.sqrt(((np.float32(index) - row) ** 2).sum(axis=1))
    assert [i for i, _ in found] == np.argsort(distances)[:5].tolist() and found[0][0] == 3
    assert [far for _, far in found] == pytest.approx(np.sort(distances)[:5], rel=1e-4)


def test_an_index_is_made_once_and_checked_before_it_is_used(made, tmp_path):
    path = tmp_path / "index.npy"
    flags = ["nearest", made.picture, *made.flags, "--data-train", made.records, "--layer", "f6"]
    flags += ["--index", path]
    assert draw(*flags).returncode == 0
    written, record = path.stat().st_mtime_ns, path.with_suffix(".json")
    assert draw(*flags).returncode == 0 and path.stat().st_mtime_ns == written
    assert json.loads(record.read_text())["images"] == 20

    assert_refused(draw(*flags, "--layer", "output"), str(path), "(layer)", "--index")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert_refused(draw(*flags), str(path), "damaged", "delete")
    path.write_bytes(content)
    symbol, *weights = store.load(made.prefix, 1)
    weights[0]["f6_bias"] += 1
    store.save(made.prefix, 1, symbol, *weights)
    assert_refused(draw(*flags), str(path), "(params)")
    path.unlink()
    assert_refused(draw(*flags), "missing")
    record.unlink()
    assert draw(*flags).returncode == 0 and path.read_bytes() != content
