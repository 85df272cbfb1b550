"""data/split.py: copies of a picture stay on one side of a split."""

import cv2
import numpy as np
import pytest
from conftest import assert_refused, run_script
from pictures import CUT, file, jpeg, photo, write_tree

from common.cli import UserError
from common.records.scan import scan_records
from data import split


def variants(seed):
    """A picture, a smaller one, one of low quality, a lighter one and another format."""
    picture = photo(240, 320, seed)
    return [
        file(".jpg", picture),
        file(".jpg", cv2.resize(picture, (160, 120))),
        jpeg(240, 320, cv2.IMWRITE_JPEG_QUALITY, 40, seed=seed),
        file(".png", (200 + 0.2 * picture).astype(np.uint8)),
        file(".webp", picture),
    ]


@pytest.fixture
def tree(tmp_path):
    """A class of twelve pictures, and one of four in five forms each."""
    files = {f"猫/{seed}.jpg": jpeg(240, 320, seed=100 + seed) for seed in range(12)}
    for seed in range(4):
        for k, content in enumerate(variants(seed)):
            files[f"écureuil roux/{seed} form {k}.jpg"] = content  # OpenCV heeds the content alone
    return write_tree(tmp_path / "tree", files)


def images(tree):
    return {folder.name: sorted(map(str, folder.iterdir())) for folder in sorted(tree.iterdir())}


def test_forms_of_a_picture_are_alike_and_others_are_not(tree):
    groups = split.find_alike(images(tree), workers=1)
    assert [len(group) for group in groups["écureuil roux"]] == [5] * 4
    assert all(len({path.split("/")[-1][0] for path in g}) == 1 for g in groups["écureuil roux"])
    assert [len(group) for group in groups["猫"]] == [1] * 12


def test_a_group_is_on_one_side_and_each_class_on_both(tree):
    found = images(tree)
    groups = split.find_alike(found, workers=1)
    for seed in range(5):
        training, validation = split.split(found, 0.25, seed, groups)
        for name, members in groups.items():
            assert sorted(training[name] + validation[name]) == found[name]
            assert training[name] and validation[name]
            for group in members:
                assert len(set(group) & set(validation[name])) in (0, len(group))


def test_a_class_of_one_group_goes_to_training():
    found = {"a": ["1", "2", "3"]}
    assert split.split(found, 0.5, 0, {"a": [["1", "2", "3"]]}) == (found, {"a": []})


def test_groups_of_one_divide_as_without_groups(tree):
    found = images(tree)
    alone = {name: [[path] for path in paths] for name, paths in found.items()}
    assert split.split(found, 0.3, 1, alone) == split.split(found, 0.3, 1)


def test_unreadable_files_are_alone(tree):
    write_tree(tree, {"猫/cut 1.jpg": CUT, "猫/cut 2.jpg": CUT, "猫/empty.jpg": b""})
    assert sum(len(g) == 1 for g in split.find_alike(images(tree), workers=1)["猫"]) == 15


def test_a_file_in_two_classes_is_refused_by_name(tree):
    write_tree(tree, {"猫/of the other.jpg": (tree / "écureuil roux/0 form 0.jpg").read_bytes()})
    with pytest.raises(UserError, match="two classes: .*0 form 0.jpg and .*/of the other.jpg; rem"):
        split.find_alike(images(tree), workers=1)


def test_the_flags_of_packing(tree, tmp_path):
    def pack(*flags):
        return run_script("-m", "data.folder", tree, tmp_path / "x", "--workers", 1, *flags)

    assert_refused(pack("--least", 13), "tree: fewer than 13 images in 猫 (12); add some")
    assert pack("--keep-alike").returncode == 2  # of nothing
    result = pack("--val-fraction", 0.25, "--keep-alike", "--least", 12)
    assert result.returncode == 0, result.stderr
    labels = scan_records(str(tmp_path / "x-val.rec")).labels
    assert np.bincount(labels.astype(int)).tolist() == [5, 3]
