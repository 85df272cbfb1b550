"""data.folder --list: MXNet's .lst files and CSV."""

import numpy as np
import pytest
from conftest import assert_refused, run_script
from pictures import jpeg, write_tree

from common.cli import UserError
from common.records.format import read_image
from common.records.scan import scan_records
from common.records.walk import open_records
from data.listing import read_list

PICTURES = {f"{name}.jpg": jpeg(seed=i) for i, name in enumerate(["a", "b", "sub/c, é", "d"])}
LST = "0\t2.000000\td.jpg\n2\t0.000000\ta.jpg\n1\t1.000000\tb.jpg\n3\t0.000000\tsub/c, é.jpg\n"
CSV = 'image,breed\nd.jpg,fox\na.jpg,cat\nb.jpg,"Dog, old"\n"sub/c, é.jpg",cat\n'


def run_list(tmp_path, text, *flags, name="photos.csv"):
    write_tree(tmp_path / "photos", PICTURES)
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    files = ["--list", tmp_path / name, "--root", tmp_path / "photos"]
    return run_script("-m", "data.folder", *files, *flags, tmp_path / "x", "--workers", "1")


def labels_of(path):
    """{name of a picture: label} of a record file."""
    names, records = {jpg: name for name, jpg in PICTURES.items()}, scan_records(str(path))
    with open_records(str(path)) as content:
        pictures = [names[read_image(content, at)] for at in records.offsets.tolist()]
    return dict(zip(pictures, records.labels.tolist()))


def test_the_labels_of_a_list_of_mxnet_are_kept(tmp_path):
    (tmp_path / "x-classes.txt").write_text("of\nother\nclasses\n")
    result = run_list(tmp_path, LST, "--overwrite", name="photos.lst")
    assert result.returncode == 0, result.stderr
    assert labels_of(tmp_path / "x.rec") == {"a.jpg": 0, "b.jpg": 1, "sub/c, é.jpg": 0, "d.jpg": 2}
    assert scan_records(str(tmp_path / "x.rec")).classes is None
    assert "x.rec: 4 images of 3 classes" in result.stdout


def test_names_in_csv_are_sorted_as_folders_are(tmp_path):
    (tmp_path / "val.csv").write_text("b.jpg,fox\n")
    result = run_list(tmp_path, CSV, "--val-list", tmp_path / "val.csv")
    assert result.returncode == 0, result.stderr
    expected = {"a.jpg": 1, "b.jpg": 0, "sub/c, é.jpg": 1, "d.jpg": 2}
    assert labels_of(tmp_path / "x-train.rec") == expected
    assert labels_of(tmp_path / "x-val.rec") == {"b.jpg": 2}
    for part in ("train", "val"):
        found = scan_records(str(tmp_path / f"x-{part}.rec")).classes
        assert found == ["Dog, old", "cat", "fox"]
    assert "x-val.rec: will have no image of Dog, old, cat" in result.stderr


def test_a_list_is_divided_as_folders_are(tmp_path):
    result = run_list(tmp_path, LST, "--val-fraction", "0.5", name="photos.lst")
    assert result.returncode == 0, result.stderr
    training, validation = (labels_of(tmp_path / f"x-{part}.rec") for part in ("train", "val"))
    assert len(training) == 3 and list(validation.values()) == [0]
    assert not training.keys() & validation.keys()


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("x.csv", "", "lists no picture"),
        ("x.csv", "a.jpg,cat,0\n", "line 1 has 3 columns; needed: path,label"),
        ("x.lst", "0\t1\n", "line 1 has 2 columns; needed: number, label and path"),
        ("x.lst", "0\t1\t2\ta.jpg\n", "line 1 has 4 columns"),
        ("x.csv", "a.jpg,cat\nb.jpg,\n", "line 2 lacks a path, or a label"),
        ("x.csv", "a.jpg,cat\n,cat\n", "line 2 lacks a path, or a label"),
        ("x.csv", 'a.jpg,"two\nlines"\n', "line 2 lacks a path, or a label of one line"),
        ("x.csv", "a.jpg,0\nb.jpg,-1\n", "line 2: -1 is no class number"),
        ("x.csv", "a.jpg,0\nb.jpg,0.5\n", "line 2: 0.5 is no class number"),
        ("x.csv", "a.jpg,0\nb.jpg,1e9\n", "line 2: 1e9 is no class number"),
        ("x.csv", "a.jpg,cat\na.jpg,dog\n", "line 2: a.jpg is on an earlier line already"),
        ("x.csv", "a.jpg,cat\na.jpg,cat\n", "line 2: a.jpg is on an earlier line already"),
        (
            "x.csv",
            "none.jpg,cat\na.jpg,dog\n",
            "there is no .*none.jpg; its paths start from --root",
        ),
        ("x.csv", "image,label\n", "there is no .*image"),
        ("x.csv", b"\xff\xfe\0", "cannot be read as lines of text"),
    ],
)
def test_a_list_of_another_form_is_refused(tmp_path, name, text, message):
    write_tree(tmp_path, PICTURES)
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f"{name}: {message}") as refusal:
        read_list(str(tmp_path / name), str(tmp_path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["x"], "give TRAIN_DIR OUT_PREFIX, or --list and OUT_PREFIX"),
        (["tree", "x", "--list", "x.csv"], "give TRAIN_DIR OUT_PREFIX, or --list"),
        (["tree", "x", "--root", "tree"], "--root: is for --list"),
        (["x", "--list", "none.csv"], "none.csv: No such file"),
    ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path, flags, message):
    assert_refused(run_script("-m", "data.folder", *flags, cwd=tmp_path), message)


def test_a_class_of_the_validation_list_alone_is_refused(tmp_path):
    (tmp_path / "val.lst").write_text("0\t3\tb.jpg\n")
    flags = ["--val-list", tmp_path / "val.lst"]
    result = run_list(tmp_path, LST, *flags, name="photos.lst")
    assert_refused(result, "val.lst: has the classes 3, which", "photos.lst has not")


def test_flags_may_stand_between_the_folder_and_the_prefix(tmp_path):
    tree = write_tree(tmp_path / "tree", {f"{name}/1.jpg": jpeg() for name in "ab"})
    result = run_script("-m", "data.folder", tree, "--workers", "1", tmp_path / "x")
    assert result.returncode == 0, result.stderr
    assert np.array_equal(np.sort(scan_records(str(tmp_path / "x.rec")).labels), [0, 1])
