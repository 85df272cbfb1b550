"""data/folder.py: a tree of class folders into record files, all of them or none."""

import os
import sys
import unicodedata

import cv2
import numpy as np
import pytest
from conftest import assert_refused, run_script
from pictures import BAD, CUT, GREY, KINDS, file, jpeg, photo, write_tree

from common.cli import UserError
from common.records.format import read_image
from common.records.scan import scan_records
from common.records.walk import open_records
from data import folder


@pytest.fixture
def tree(tmp_path):
    """Classes of 13, 10 and 2 images in nested folders, and files that are no images."""
    root = tmp_path / "tree"
    for name, count in (("owl", 13), ("cat", 10), ("écureuil roux", 2)):
        for i in range(count):
            path = root / name / ("deep/er" if i % 2 else "") / f"{name} {i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(seed=i))
    (root / "cat" / "notes.txt").write_text("no image")
    (root / "cat" / "Thumbs.db").write_text("no image")
    (root / "cat" / ".hidden.jpg").write_bytes(jpeg())
    (root / "README").write_text("no image")
    return root


def left_in(path):
    return sorted(name for name in os.listdir(path) if name != "tree")


def test_every_image_below_a_class_folder_is_found_and_the_rest_counted(tree):
    found = folder.find(str(tree))

    assert {name: len(paths) for name, paths in found.images.items()} == {
        "cat": 10,
        "owl": 13,
        "écureuil roux": 2,
    }
    assert list(found.images) == sorted(found.images)
    assert found.ignored == {".txt": 1, ".db": 1, "hidden": 1, "outside a class folder": 1}


def test_links_are_followed_and_a_loop_ends(tree, tmp_path):
    write_tree(tmp_path / "elsewhere", {"a.png": file(".png", GREY), "b/c.jpg": jpeg()})
    (tree / "cat" / "link").symlink_to(tmp_path / "elsewhere")
    (tree / "cat" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "b" / "c.jpg")
    (tree / "cat" / "loop").symlink_to(tree / "cat")
    (tree / "linked class").symlink_to(tmp_path / "elsewhere")

    images = folder.find(str(tree)).images

    assert len(images["cat"]) == 10 + 3
    assert len(images["linked class"]) == 2


def test_empty_class_folders_are_refused_by_name(tree):
    (tree / "empty").mkdir()
    write_tree(tree, {"text only/notes.txt": b"no image"})
    with pytest.raises(UserError, match=r"no image in empty, text only \(1 .txt\); "):
        folder.find(str(tree))


@pytest.mark.parametrize("names", [["cat.HEIC", "dog.heic"], ["cat", "dog"]])
def test_a_class_of_files_that_are_not_read_is_refused_with_their_kinds(tmp_path, names):
    write_tree(tmp_path / "tree", {f"cats/{name}": jpeg() for name in names})
    kind = "2 .heic" if "." in names[0] else "2 no extension"
    with pytest.raises(UserError, match=rf"no image in cats \({kind}\);.* \(.bmp .*\.webp\)"):
        folder.find(str(tmp_path / "tree"))


@pytest.mark.parametrize("names", [["train", "val"], ["Training"], ["test", "train", "valid"]])
def test_splits_are_not_taken_for_classes(tmp_path, names):
    write_tree(tmp_path / "tree", {f"{name}/cat/1.jpg": jpeg() for name in names})
    with pytest.raises(UserError, match=f"{', '.join(names)} are no classes; .*--val-dir"):
        folder.find(str(tmp_path / "tree"))
    write_tree(tmp_path / "tree", {"tram/1.jpg": jpeg()})  # beside it, a train may be a class
    assert len(folder.find(str(tmp_path / "tree")).images) == len(names) + 1


def test_a_name_is_the_same_however_its_accents_are_stored(tmp_path):
    mac, linux = (unicodedata.normalize(form, "écureuil") for form in ("NFD", "NFC"))
    other = write_tree(tmp_path / "mac", {f"{mac}/1.jpg": jpeg(), "zebra/1.jpg": jpeg()})
    tree = write_tree(tmp_path / "linux", {f"{linux}/1.jpg": jpeg(), "zebra/1.jpg": jpeg()})

    assert list(folder.find(str(other)).images) == ["zebra", linux]
    result = run_folder(tree, tmp_path / "x", "--val-dir", other, "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert scan_records(str(tmp_path / "x-val.rec")).classes == ["zebra", linux]

    (tree / mac).mkdir()
    with pytest.raises(UserError, match="two class folders are named écureuil"):
        folder.find(str(tree))


@pytest.mark.parametrize(
    "name", [b"two\nlines", b"\xe9cureuil", b"a\rb", b"a\x0bb", "a\u2028b".encode()]
)
def test_a_class_name_that_no_text_file_holds_is_refused(tmp_path, name):
    os.makedirs(os.path.join(os.fsencode(tmp_path), name))
    with open(os.path.join(os.fsencode(tmp_path), name, b"x.jpg"), "wb"):
        pass
    with pytest.raises(UserError, match="rename it to one line of UTF-8"):
        folder.find(str(tmp_path))


@pytest.mark.parametrize(
    "count, fraction, expected",
    [
        (1, 0.5, 0),
        (2, 0.01, 1),
        (2, 0.99, 1),
        (10, 0.1, 1),
        (13, 0.1, 1),
        (15, 0.1, 2),
        (99, 0.2, 20),
    ],
)
def test_the_split_is_per_class(count, fraction, expected):
    images = {name: [f"{name}/{i:02d}" for i in range(count)] for name in "ab"}

    training, validation = folder.split(images, fraction, seed=0)

    for name in "ab":
        assert len(validation[name]) == expected
        assert sorted(training[name] + validation[name]) == images[name]


def test_the_split_follows_the_seed_and_no_other_class():
    images = {name: [f"{name}/{i:02d}" for i in range(50)] for name in "abc"}
    first = folder.split(images, 0.2, seed=1)

    assert folder.split(images, 0.2, seed=1) == first
    assert folder.split(images, 0.2, seed=2) != first
    assert folder.split({"b": images["b"]}, 0.2, seed=1)[1]["b"] == first[1]["b"]
    assert [p[2:] for p in first[1]["a"]] != [p[2:] for p in first[1]["b"]]


def test_training_is_shuffled_over_the_classes_and_validation_is_not():
    images = {name: [f"{name}{i}" for i in range(50)] for name in "ab"}

    listed, shuffled = folder.items(images), folder.items(images, seed=3)

    assert [label for _, label, _ in listed] == [0] * 50 + [1] * 50
    assert sorted(shuffled) == sorted(listed)
    assert 10 < sum(label for _, label, _ in shuffled[:50]) < 40
    assert shuffled == folder.items(images, seed=3)
    assert shuffled != folder.items(images, seed=4)


# The command


def run_folder(*arguments):
    return run_script("-m", "data.folder", *arguments)


def test_one_command_makes_a_training_and_a_validation_set(tree, tmp_path):
    out = tmp_path / "new" / "set"

    result = run_folder(tree, out, "--val-fraction", "0.2", "--workers", "2", "--quality", "100")

    assert result.returncode == 0, result.stderr
    assert left_in(tmp_path / "new") == sorted(
        f"set-{part}{end}"
        for part in ("train", "val")
        for end in (".rec", ".idx", "-checksums.npy", "-classes.txt")
    )
    training, validation = (scan_records(f"{out}-{part}.rec") for part in ("train", "val"))
    assert np.bincount(training.labels.astype(int)).tolist() == [8, 10, 1]
    assert (np.diff(training.labels) < 0).any()  # shuffled
    assert validation.labels.tolist() == [0] * 2 + [1] * 3 + [2]
    assert training.classes == validation.classes == ["cat", "owl", "écureuil roux"]
    assert "set-train.rec: 19 images of 3 classes" in result.stdout
    assert "ignored: 4 files" in result.stderr
    assert "set-train: 19/19 images" in result.stderr
    assert "img/s" in result.stderr


def test_the_files_are_the_same_for_a_seed_whatever_the_number_of_processes(tree, tmp_path):
    def made(name, workers, seed):
        listed = folder.items(folder.find(str(tree)).images, seed)
        folder.write({str(tmp_path / name): listed}, ["a", "b", "c"], workers=workers)
        return (tmp_path / f"{name}.rec").read_bytes()

    first = made("one", workers=1, seed=1)
    assert made("three", workers=3, seed=1) == first
    assert made("other", workers=1, seed=2) != first


def test_mxnet_trains_on_every_kind_with_the_right_labels(tmp_path):
    import mxnet as mx

    files = {f"class{i % 3}/{name}": image for i, (name, image) in enumerate(KINDS.items())}
    images = folder.find(str(write_tree(tmp_path / "tree", files))).images
    folder.write({str(tmp_path / "x"): folder.items(images)}, list(images), workers=1)

    reader = mx.io.ImageRecordIter(
        path_imgrec=str(tmp_path / "x.rec"),
        data_shape=(3, 24, 24),
        batch_size=len(KINDS),
        resize=24,
        preprocess_threads=1,
        verbose=False,
    )
    labels = [batch.label[0].asnumpy().tolist() for batch in reader]

    assert labels == [[i for i, paths in enumerate(images.values()) for _ in paths]]


def test_the_validation_folder_is_packed_with_the_same_labels(tree, tmp_path):
    files = {
        f"{name}/{i}.png": KINDS["x.ppm"] for name in folder.find(str(tree)).images for i in "ab"
    }
    other = write_tree(tmp_path / "other", files)

    result = run_folder(tree, tmp_path / "x", "--val-dir", other, "--workers", "1")

    assert result.returncode == 0, result.stderr
    assert scan_records(str(tmp_path / "x-val.rec")).labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_validation_folder_of_other_classes_is_refused(tree, tmp_path):
    other = write_tree(tmp_path / "other", {"cat/a.jpg": jpeg(), "dog/a.jpg": jpeg()})
    result = run_folder(tree, tmp_path / "x", "--val-dir", other)
    assert_refused(result, "other: has the classes dog, which", "tree has not")


def test_classes_without_validation_images_are_named_and_keep_their_labels(tree, tmp_path):
    other = write_tree(tmp_path / "other", {"owl/a.jpg": jpeg(), "cat/a.heic": b""})
    result = run_folder(tree, tmp_path / "x", "--val-dir", other, "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert "x-val.rec: will have no image of cat, écureuil roux\n" in result.stderr
    assert "(1 .db, 1 .heic," in result.stderr
    validation = scan_records(str(tmp_path / "x-val.rec"))
    assert validation.labels.tolist() == [1]
    assert validation.classes == ["cat", "owl", "écureuil roux"]


@pytest.mark.parametrize("prefix", ["out/", "out/.", ".."])
def test_a_folder_as_out_prefix_is_refused(tree, tmp_path, prefix):
    assert_refused(run_folder(tree, f"{tmp_path}/{prefix}"), "is a folder; give the files a name")
    assert left_in(tmp_path) == []


def test_an_out_prefix_with_its_ending_is_understood(tree, tmp_path):
    result = run_folder(tree, tmp_path / "x.rec", "--workers", "1")
    assert "x.rec: 25 images of 3 classes" in result.stdout
    assert len(scan_records(str(tmp_path / "x.rec"))) == 25


def test_unreadable_files_are_named_and_nothing_is_written(tree, tmp_path):
    write_tree(tree, {f"owl/{name}": image for name, (image, _) in BAD.items()})
    (tree / "owl" / "dangling.jpg").symlink_to(tree / "nothing")

    result = run_folder(tree, tmp_path / "x", "--val-fraction", "0.3", "--workers", "2")

    assert result.returncode == 2
    for name, (_, cause) in BAD.items():
        assert f"owl/{name}: {cause}" in result.stderr
    assert "owl/dangling.jpg: No such file or directory" in result.stderr
    last = result.stderr.splitlines()[-1]
    assert "error: 11 of 36 images cannot be read" in last and "--skip-bad" in last
    assert left_in(tmp_path) == []


def test_with_skip_bad_the_readable_rest_is_written(tree, tmp_path):
    write_tree(tree, {"owl/cut.jpg": CUT})

    result = run_folder(tree, tmp_path / "x", "--skip-bad", "--workers", "1")

    assert result.returncode == 0, result.stderr
    assert "owl/cut.jpg: the JPEG ends early" in result.stderr
    assert "1 of 26 images cannot be read and were left out" in result.stderr
    assert len(scan_records(str(tmp_path / "x.rec"))) == 25


def test_existing_output_is_kept_unless_told(tree, tmp_path):
    (tmp_path / "x.idx").write_text("mine")

    refused = run_folder(tree, tmp_path / "x")
    assert refused.returncode == 2
    assert "x.idx: already exists; choose another name or pass --overwrite" in refused.stderr
    assert (tmp_path / "x.idx").read_text() == "mine"

    replaced = run_folder(tree, tmp_path / "x", "--overwrite", "--workers", "1")
    assert replaced.returncode == 0, replaced.stderr
    assert len(scan_records(str(tmp_path / "x.rec"))) == 25


@pytest.mark.parametrize(
    "flags, message",
    [
        (["none", "x"], "none: is not a folder"),
        (["tree/cat/deep", "x", "--val-fraction", "1"], "'1' is not a number above 0 and below 1"),
        (["tree/cat/deep/er", "x"], "has no class folders"),
        (
            ["tree", "x", "--quality", "101"],
            "'101' is not an integer of at least 1 and of at most 100",
        ),
        (["tree", "x", "--resize", "-1"], "'-1' is not an integer of at least 0"),
        (["tree", "x", "--encoding", ".gif"], "invalid choice: '.gif'"),
        (["tree", "x", "--val-dir", "tree", "--val-fraction", "0.1"], "not allowed with"),
        (["tree", "x", "--res", "9"], "unrecognized arguments"),
    ],
)
def test_a_wrong_argument_is_one_line(tree, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tree.parent)
    monkeypatch.setattr(sys, "argv", ["folder.py", *flags])
    with pytest.raises((SystemExit, UserError)) as refusal:
        folder.main()
    line = str(refusal.value) if refusal.type is UserError else capsys.readouterr().err.strip()
    assert message in line and "\n" not in line


def test_a_validation_set_without_an_image_is_refused(tmp_path):
    tree = write_tree(tmp_path / "tree", {"a/1.jpg": jpeg(), "b/1.jpg": jpeg()})
    result = run_folder(tree, tmp_path / "x", "--val-fraction", "0.5", "--workers", "1")
    assert result.returncode == 2
    assert "x-val.rec: there is no readable image to write" in result.stderr.splitlines()[-1]
    assert left_in(tmp_path) == []


def test_an_error_of_the_disk_is_one_line_and_leaves_nothing(tree, tmp_path):
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "from common import cli; from data import folder; cli.run(folder.main)"
    )
    result = run_script("-c", limited, tree, tmp_path / "x", "--workers", "1")
    assert result.returncode == 2
    assert "x.rec: cannot be written: File too large" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert left_in(tmp_path) == []


def test_pictures_whose_pixels_were_changed_are_counted(tmp_path):
    transparent = np.dstack([photo(30, 40).astype(np.uint16) * 257, GREY.astype(np.uint16) * 257])
    opaque = np.dstack([photo(30, 40), np.full_like(GREY, 255)])
    files = {
        **{f"a/{name}": KINDS[name] for name in ("alpha.png", "of 16 bits.png", "x.tiff")},
        "a/both.png": file(".png", transparent),
        "b/opaque.png": file(".png", opaque),
        "b/cut.png": BAD["cut.png"][0],
    }
    tree = write_tree(tmp_path / "tree", files)
    result = run_folder(tree, tmp_path / "x", "--skip-bad", "--workers", "1")
    assert "\nchanged: 2 composited on white, 2 reduced from 16 bits to 8\n" in result.stderr


def test_central_squares_are_packed_on_demand(tree, tmp_path):
    result = run_folder(tree, tmp_path / "x", "--center-crop", "--resize", "24", "--workers", "1")
    assert result.returncode == 0, result.stderr
    with open_records(str(tmp_path / "x.rec")) as content:
        for at in scan_records(str(tmp_path / "x.rec")).offsets.tolist():
            picture = cv2.imdecode(np.frombuffer(read_image(content, at), np.uint8), 1)
            height, width = picture.shape[:2]
            assert height == width <= 24


@pytest.mark.slow
def test_100_000_pictures_are_packed_each_once(tmp_path):
    per_class = 10_000
    drawn = np.random.RandomState(0).randint(0, 256, (10 * per_class, 4, 4, 3), np.uint8)
    for number, pixels in enumerate(drawn):
        path = tmp_path / "photos" / f"class {number // per_class}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_NEAREST))
    result = run_folder(tmp_path / "photos", tmp_path / "many", "--val-fraction", 0.2)
    assert result.returncode == 0, result.stderr
    for part, share in (("train", 0.8), ("val", 0.2)):
        found = scan_records(str(tmp_path / f"many-{part}.rec"))
        assert np.bincount(found.labels.astype(int)).tolist() == [share * per_class] * 10
