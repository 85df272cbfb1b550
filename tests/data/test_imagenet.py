"""The official ImageNet archives, in miniature: right labels, no image lost, killed and resumed."""

import base64
import gzip
import io
import os
import shutil
import signal
import tarfile
from types import SimpleNamespace

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, run_script
from pictures import write_tree

from common.cli import UserError
from common.io.lock import lock
from common.records.picture import encode
from common.records.scan import scan_records
from data import imagenet, parts

TABLE = imagenet.classes()
LABELS = {row.wnid: label for label, row in enumerate(TABLE)}
# In the order of the archive, which is not the sorted one: kit fox, dumbbell, tench, sheltie.
WNIDS = ["n02119789", "n03255030", "n01440764", "n02105855"]
EACH = 30  # images a class
SMALL = ["--resize", "64", "--workers", "1", "--allow-partial"]

# 16x16 CMYK, all of one colour, cyan 0, magenta 200, yellow 200, black 20: red. By Pillow.
CMYK = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwAQCwwODAoQDg0OEhEQExgoGhgWFhgxIyUdKDozPTw5Mzg3QEhcTkBEV0U3OFBt"
    "UVdfYmdoZz5NcXlwZHhcZWdj/8AAFAgAEAAQBEMRAE0RAFkRAEsRAP/EABYAAQEBAAAAAAAAAAAAAAAAAAAGB//EABQQ"
    "AQAAAAAAAAAAAAAAAAAAAAD/2gAOBEMATQBZAEsAAD8A0BNJpbAAAAP/2Q=="
)


def noise(seed, ending=".jpg"):
    """The bytes of a picture of 200x150 noise: slow enough to encode that a run can be killed."""
    pixels = np.random.RandomState(seed).randint(0, 256, (150, 200, 3), np.uint8)
    return cv2.imencode(ending, pixels)[1].tobytes()


def tar(members):
    """The bytes of a tar of ``members``: {name: content}."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture(scope="module")
def train_images():
    """{wnid: {file name: bytes}}; the first of a class is a PNG, the second a CMYK JPEG."""
    images = {}
    for number, wnid in enumerate(WNIDS):
        names = [f"{wnid}_{10 * i}.JPEG" for i in range(EACH)]
        images[wnid] = {name: noise(100 * number + i) for i, name in enumerate(names)}
        images[wnid][names[0]] = noise(100 * number, ".png")
        images[wnid][names[1]] = CMYK
    return images


@pytest.fixture(scope="module")
def train_tar(train_images, tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "ILSVRC2012_img_train.tar"
    path.write_bytes(tar({f"{wnid}.tar": tar(images) for wnid, images in train_images.items()}))
    return path


@pytest.fixture(scope="module")
def train_out(train_tar, tmp_path_factory):
    """The output folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("train")
    imagenet.main([*SMALL, "--train", str(train_tar), str(out)])
    return out


def made(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def images_in(path):
    """[(label, encoded image)] in the order of the record file."""
    reader = mx.recordio.MXRecordIO(str(path), "r")
    found = []
    for record in iter(reader.read, None):
        header, image = mx.recordio.unpack(record)
        found.append((int(header.label), image))
    return found


def test_two_runs_in_one_folder_do_not_touch_each_others_parts(train_tar, tmp_path):
    part = tmp_path / "train.parts" / "begun.bin"
    part.parent.mkdir()
    part.write_bytes(b"of the first run")
    with lock(str(tmp_path / "train")):
        flags = [*SMALL, "--overwrite", "--train", train_tar, tmp_path]
        assert_refused(run_script("-m", "data.imagenet", *flags), "another run", str(os.getpid()))
    assert part.read_bytes() == b"of the first run"


def test_the_class_table_is_a_permutation_of_the_official_ids():
    assert len(TABLE) == 1000
    assert [row.wnid for row in TABLE] == sorted({row.wnid for row in TABLE})
    assert sorted(row.ilsvrc_id for row in TABLE) == list(range(1, 1001))
    assert len({row.name for row in TABLE}) == 1000
    assert TABLE[0] == ("n01440764", 449, "tench")
    assert TABLE[LABELS["n02119789"]] == ("n02119789", 1, "kit fox")
    assert TABLE[LABELS["n03255030"]] == ("n03255030", 1000, "dumbbell")
    assert TABLE[65] == ("n01751748", 490, "sea snake")  # of the first validation image
    assert TABLE[134].name != TABLE[517].name  # a bird and a machine, both called crane


def test_every_training_image_is_there_once_with_its_label(train_images, train_out):
    wanted = [
        (LABELS[wnid], encode(image, resize=64))
        for wnid, images in train_images.items()
        for image in images.values()
    ]
    found = images_in(train_out / "train.rec")
    assert sorted(found) == sorted(wanted)
    labels = [label for label, _ in found]
    assert len(set(labels[:20])) > 1  # shuffled
    scanned = scan_records(str(train_out / "train.rec"))
    assert len(scanned) == len(WNIDS) * EACH
    assert scanned.classes == [row.name for row in TABLE]
    assert sorted(made(train_out)) == [
        "train-checksums.npy",
        "train-classes.txt",
        "train.idx",
        "train.rec",
    ]


def test_a_png_and_a_cmyk_image_called_jpeg_come_out_as_jpeg(train_out):
    pictures = [
        (image[:2], cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED))
        for _, image in images_in(train_out / "train.rec")
    ]
    assert all(start == b"\xff\xd8" and picture.shape[2] == 3 for start, picture in pictures)
    red = [picture for _, picture in pictures if picture.shape == (16, 16, 3)]
    assert len(red) == len(WNIDS)
    assert np.abs(red[0].astype(int) - [51, 51, 235]).max() <= 6


# Runs data.imagenet and dies like a machine without power: at an encoded image or a record.
KILLED = """
import os, sys
from common.records.writer import RecordWriter
from data import imagenet, pack
where, count = sys.argv.pop(1), int(sys.argv.pop(1))
encode_all, write = pack.encode_all, RecordWriter.write
def encode(*args, **options):
    for n, result in enumerate(encode_all(*args, **options)):
        n == count and os.kill(os.getpid(), 9)
        yield result
def record(writer, *args):
    writer.count == count and os.kill(os.getpid(), 9)
    write(writer, *args)
if where == "image":
    pack.encode_all = encode
else:
    RecordWriter.write = record
imagenet.main()
"""


@pytest.mark.parametrize(("where", "count", "done"), [("image", 75, 2), ("record", 50, 4)])
def test_killed_and_run_again_it_goes_on_to_the_same_bytes(
    where, count, done, train_tar, train_out, tmp_path
):
    command = [*SMALL, "--train", train_tar, tmp_path / "out"]
    assert run_script("-c", KILLED, where, count, *command).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("out/train.parts/*/*.bin"))) == done
    assert not list(tmp_path.glob("out/*.rec"))

    result = run_script("-m", "data.imagenet", *command)
    assert result.returncode == 0, result.stderr
    assert f"{done} parts already exist" in result.stdout
    assert f"train: {(len(WNIDS) - done) * EACH} images" in result.stderr  # the others only
    assert made(tmp_path / "out") == made(train_out)


def test_whole_records_are_kept_unless_overwritten(train_tar, tmp_path, capsys):
    command = [*SMALL, "--train", str(train_tar), str(tmp_path)]
    imagenet.main(command)
    before = made(tmp_path)
    imagenet.main([*command, "--resize", "32"])
    assert "already made" in capsys.readouterr().out
    assert made(tmp_path) == before
    imagenet.main([*command, "--resize", "32", "--overwrite"])
    assert made(tmp_path) != before


VAL = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 6)]
# The ground truth of the official set begins like this; Caffe's labels and the WordNet ids agree.
IDS = [490, 361, 171, 822, 297]
CAFFE = [65, 970, 230, 809, 516]


@pytest.fixture(scope="module")
def val_tar(tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "ILSVRC2012_img_val.tar"
    images = {name: noise(1000 + i) for i, name in enumerate(VAL)}
    path.write_bytes(tar(dict(reversed(list(images.items())))))
    return path


def lines(*columns):
    return "".join(" ".join(map(str, row)) + "\n" for row in zip(*columns))


@pytest.fixture
def devkit(tmp_path):
    """Call it with the lines of the ground truth; the path of a development kit that has them."""

    def make(text):
        name = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
        path = tmp_path / "devkit.tar.gz"
        path.write_bytes(gzip.compress(tar({name: text.encode()})))
        return str(path)

    return make


def test_validation_images_keep_their_order_and_get_their_labels(val_tar, devkit, tmp_path):
    kit = devkit(lines(IDS))
    imagenet.main([*SMALL, "--val", str(val_tar), "--devkit", kit, str(tmp_path / "out")])
    wanted = [(label, encode(noise(1000 + i), resize=64)) for i, label in enumerate(CAFFE)]
    assert images_in(tmp_path / "out/val.rec") == wanted


def test_the_central_squares_are_parts_of_their_own(val_tar, devkit, tmp_path):
    command = [*SMALL, "--val", str(val_tar), "--devkit", devkit(lines(IDS)), str(tmp_path / "out")]
    official = command[:4] + command[5:]  # without --allow-partial it ends before it joins
    with pytest.raises(UserError, match="has 5 images, not 50,000"):
        imagenet.main(official)
    imagenet.main([*command, "--center-crop"])
    wanted = [encode(noise(1000 + i), resize=64, center_crop=True) for i in range(len(VAL))]
    assert [image for _, image in images_in(tmp_path / "out/val.rec")] == wanted
    assert cv2.imdecode(np.frombuffer(wanted[0], np.uint8), 1).shape == (64, 64, 3)


def test_a_validation_image_without_a_label_is_refused(val_tar, devkit, tmp_path):
    kit = devkit(lines(IDS[:4]))
    with pytest.raises(UserError, match="no label for ILSVRC2012_val_00000005"):
        imagenet.main([*SMALL, "--val", str(val_tar), "--devkit", kit, str(tmp_path / "out")])


# Kaggle's folders


@pytest.fixture
def kaggle(train_images, tmp_path):
    """Class folders, a folder of validation images and their labels, as Kaggle lays them out."""
    files = {
        f"train/{wnid}/{n}": image for wnid, i in train_images.items() for n, image in i.items()
    }
    files.update({f"val/{name}": noise(1000 + i) for i, name in enumerate(VAL)})
    rows = [f"{name[:-5]},{TABLE[label].wnid} 85 1 499 272 " for name, label in zip(VAL, CAFFE)]
    files["val.csv"] = "\n".join(["ImageId,PredictionString", *reversed(rows), ""]).encode()
    files["val/.DS_Store"] = files["train/list.txt"] = b"no image"
    return write_tree(tmp_path / "kaggle", files)


def kaggle_flags(root):
    csv = root / "val.csv"
    flags = [
        *SMALL,
        "--train",
        root / "train",
        "--val",
        root / "val",
        "--devkit",
        csv,
        root / "out",
    ]
    return [str(flag) for flag in flags]


def test_kaggles_folders_become_the_same_records_as_the_archives(kaggle, train_out, capsys):
    imagenet.main(kaggle_flags(kaggle))
    found = images_in(kaggle / "out/train.rec")
    assert sorted(found) == sorted(images_in(train_out / "train.rec"))
    assert found != sorted(found)
    wanted = [(label, encode(noise(1000 + i), resize=64)) for i, label in enumerate(CAFFE)]
    assert images_in(kaggle / "out/val.rec") == wanted
    assert scan_records(str(kaggle / "out/val.rec")).classes == [row.name for row in TABLE]


def test_kaggles_folders_are_continued_unless_they_changed(kaggle, capsys):
    bad = kaggle / "train" / WNIDS[0] / "n02119789_10.JPEG"
    good = bad.read_bytes()
    bad.write_bytes(b"no image")
    (kaggle / "train" / WNIDS[1] / "more.JPEG").write_bytes(good)
    with pytest.raises(UserError, match="1 of 121 images"):
        imagenet.main(kaggle_flags(kaggle))
    (kaggle / "train" / WNIDS[1] / "more.JPEG").unlink()
    imagenet.main([*kaggle_flags(kaggle), "--skip-bad"])
    captured = capsys.readouterr()
    assert "4 parts already exist" in captured.out and f"train: {EACH} images" in captured.err
    assert len(scan_records(str(kaggle / "out/train.rec"))) == len(WNIDS) * EACH - 1


def test_other_folders_than_kaggles_are_refused(kaggle, tmp_path):
    flags = kaggle_flags(kaggle)
    for more, message in [
        (["--train", str(kaggle)], "train is no class of ImageNet; .*n01440764 to n15075141"),
        (["--train", str(kaggle / "val")], "val: has no class folders"),
        (["--val", str(kaggle / "train")], "no pictures lie in it; .*python -m data.folder"),
    ]:
        with pytest.raises(UserError, match=message):
            imagenet.main([*flags, *more])
    (kaggle / "val/ILSVRC2012_val_00000009.JPEG").write_bytes(noise(9))
    with pytest.raises(UserError, match="no label for ILSVRC2012_val_00000009.JPEG"):
        imagenet.main(flags)
    (kaggle / "val.csv").write_text("ILSVRC2012_val_00000001,tench\n")
    with pytest.raises(UserError, match="'ILSVRC2012_val_00000001,tench' is no line of LOC"):
        imagenet.main(flags)
    folder = kaggle / "train" / WNIDS[0]
    folder.rename(tmp_path / "away")
    folder.mkdir()
    with pytest.raises(UserError, match=f"{WNIDS[0]} holds no picture; unpack it again"):
        imagenet.main(flags)
    flags.remove("--allow-partial")
    with pytest.raises(UserError, match="has 4 classes, not 1000; unpack it again"):
        imagenet.main(flags)
    assert not list(kaggle.glob("out/*.rec"))


@pytest.mark.parametrize("line", ["0", "1001", "n01751748", "x.JPEG 1000", "a b c", ""])
def test_a_line_that_is_no_id_is_refused(line):
    with pytest.raises(UserError, match="kit.tar.gz: line 2"):
        imagenet.val_labels(f"1\n{line}\n2\n", "kit.tar.gz", TABLE)


def damaged(content, how):
    """``content``, the bytes of the training archive, with one fault."""
    second = content.index(b"n03255030.tar")  # where the second class's header begins
    image = content.index(b"n02119789_50.JPEG")  # and that of an image in the first
    if how == "cut in an image":
        return content[: image + 700]
    if how == "cut between two classes":
        return content[:second]
    if how == "a hole of zeros":
        return content[:image] + bytes(20480) + content[image + 20480 :]
    assert how == "a damaged header"
    return content[: second + 20] + b"\xff" * 40 + content[second + 60 :]


@pytest.mark.parametrize(
    "how", ["cut in an image", "cut between two classes", "a hole of zeros", "a damaged header"]
)
def test_a_damaged_archive_is_refused_and_no_image_lost_without_a_word(how, train_tar, tmp_path):
    path = tmp_path / "train.tar"
    path.write_bytes(damaged(train_tar.read_bytes(), how))
    with pytest.raises(UserError, match="is cut or damaged.*MD5.*get it again") as refusal:
        imagenet.main([*SMALL, "--train", str(path), str(tmp_path / "out")])
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out/train.rec").exists()


def test_fewer_classes_or_images_than_the_official_are_refused(
    train_tar, val_tar, devkit, tmp_path
):
    command = ["-m", "data.imagenet", "--resize", "64", "--workers", "1", tmp_path / "out"]
    result = run_script(*command, "--train", train_tar)
    assert_refused(result, "has 4 classes, not 1000", imagenet.MD5["train"], "--allow-partial")
    result = run_script(*command, "--val", val_tar, "--devkit", devkit(lines(IDS)))
    assert result.returncode == 2
    assert "has 5 images, not 50,000" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out/val.rec").exists()


def test_a_foreign_archive_is_refused(tmp_path, val_tar):
    path = tmp_path / "train.tar"
    path.write_bytes(tar({"n99999999.tar": b""}))
    with pytest.raises(UserError, match="n99999999.tar is no class"):
        imagenet.main([*SMALL, "--train", str(path), str(tmp_path)])
    with pytest.raises(UserError, match="val_0000000..JPEG is no class"):
        imagenet.main([*SMALL, "--train", str(val_tar), str(tmp_path)])
    path.write_bytes(tar({"n01440764.tar": tar({})}))
    with pytest.raises(UserError, match="n01440764.tar: is empty"):
        imagenet.main([*SMALL, "--train", str(path), str(tmp_path)])


def test_unreadable_images_are_named_and_left_out_only_on_demand(tmp_path, capsys):
    images = {f"n01440764_{i}.JPEG": noise(i) for i in range(5)}
    images["n01440764_3.JPEG"] = images["n01440764_3.JPEG"][:900]
    path = tmp_path / "train.tar"
    path.write_bytes(tar({"n01440764.tar": tar(images)}))
    command = [*SMALL, "--train", str(path), str(tmp_path / "out")]
    with pytest.raises(UserError, match="1 of 5 images"):
        imagenet.main(command)
    assert "n01440764_3.JPEG" in capsys.readouterr().err
    assert not (tmp_path / "out/train.rec").exists()

    imagenet.main([*command, "--skip-bad"])
    captured = capsys.readouterr()
    assert "1 parts already exist" in captured.out
    assert "train: 0 images" in captured.err  # nothing was encoded again
    assert "n01440764_3.JPEG" in captured.err
    assert len(scan_records(str(tmp_path / "out/train.rec"))) == 4


FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
from common import cli
from data import imagenet
cli.run(imagenet.main)
"""


def test_a_full_disk_is_said_in_one_line(train_tar, tmp_path):
    result = run_script("-c", FULL_DISK, *SMALL, "--train", train_tar, tmp_path / "out")
    assert_refused(result, "n02119789", "make room and run again")


def test_too_little_room_to_join_is_said_before_the_work(train_tar, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="train.rec: needs 0.0 GB of disk"):
        imagenet.main([*SMALL, "--train", str(train_tar), str(tmp_path)])
    assert len(list(tmp_path.glob("train.parts/*/*.bin"))) == len(WNIDS)


def test_the_join_does_not_depend_on_how_many_images_it_holds(
    train_tar, train_out, tmp_path, monkeypatch
):
    monkeypatch.setattr(parts, "_WINDOW", 7)
    imagenet.main([*SMALL, "--train", str(train_tar), str(tmp_path)])
    assert made(tmp_path) == made(train_out)


def test_parts_of_other_settings_or_another_archive_are_not_mixed(train_tar, train_out, tmp_path):
    out = tmp_path / "out"
    first = tmp_path / "train.tar"
    bad = {"n02119789_0.JPEG": b"no image"}
    first.write_bytes(tar({"n02119789.tar": tar(bad), "n01440764.tar": tar(bad)}))
    for resize in ("64", "32"):
        with pytest.raises(UserError, match="cannot be read"):
            imagenet.main([*SMALL, "--resize", resize, "--train", str(first), str(out)])
    imagenet.main([*SMALL, "--train", str(train_tar), str(out)])
    assert made(out) == made(train_out)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--train, --val or both"),
        (["--val", "x.tar"], "--val needs its labels: give --devkit"),
        (["--train", "none.tar"], "none.tar: no such file"),
    ],
)
def test_missing_flags_and_files_are_refused_in_one_line(flags, words, tmp_path):
    assert_refused(run_script("-m", "data.imagenet", tmp_path / "out", *flags), words)
    assert not os.path.exists(tmp_path / "out")
