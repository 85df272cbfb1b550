"""Names in Chinese, on terminals of any encoding: what cannot be printed is escaped."""

import csv
import io
import os
import subprocess
import sys

import pytest
from conftest import LENET, ROOT, bands, run_script, write_records
from small_checkpoints import save_lenet

from common.io.opencv import cv2

CLASSES = ["猫", "狗", "鸟"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint 检查点/网络 with classes in Chinese, and 图片/, a folder a class."""
    folder = tmp_path_factory.mktemp("中文")
    (folder / "检查点").mkdir()
    save_lenet(str(folder / "检查点" / "网络"), CLASSES)
    for number, name in enumerate(CLASSES):
        (folder / "图片" / name).mkdir(parents=True)
        for copy, picture in enumerate(bands(3, seed=number, channels=3)[0]):
            content = cv2.imencode(".png", picture)[1].tobytes()
            (folder / "图片" / name / f"第{copy}张.png").write_bytes(content)
    return folder


def run(folder, encoding, *command):
    """The exit code, and what a command says in bytes, on a terminal of that encoding."""
    script, *rest = command
    where = [script] if script == "-m" else [os.path.join(ROOT, script)]
    done = subprocess.run(
        [sys.executable, *where, *map(str, rest)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ROOT, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=300,
    )
    assert b"Traceback" not in done.stderr and b"Unicode" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


PREDICT = ["predict.py", "--model-prefix", "检查点/网络", "--load-epoch", 1, "--top-k", 3]


@pytest.mark.parametrize("encoding, shown", [("gbk", "猫".encode("gbk")), ("ascii", b"\\u732b")])
def test_pictures_are_named_on_a_terminal_of_another_encoding(encoding, shown, folder):
    code, out, _ = run(folder, encoding, *PREDICT, "图片")
    assert code == 0 and out.count(shown) >= 9
    code, _, err = run(folder, encoding, *PREDICT, "图片/没有.png")
    assert code == 1 and err.count(b"\n") == 1


@pytest.mark.parametrize("encoding", ["gbk", "ascii"])
def test_packing_and_training_run_on_a_terminal_of_another_encoding(encoding, folder, tmp_path):
    packed, prefix = tmp_path / "记录", tmp_path / "模型"
    flags = ["--resize", 32, "--val-fraction", 0]
    code, _, err = run(folder, encoding, "-m", "data.folder", "图片", packed, *flags[:2])
    assert code == 0, err
    flags = [*LENET, "--data-train", f"{packed}.rec", "--model-prefix", prefix, "--batch-size", 4]
    shape = ["--image-shape", "3,32,32", "--rgb-mean", "9,9,9", "--rgb-std", "9,9,9"]
    code, _, err = run(folder, encoding, "train_imagenet.py", *flags, *shape)
    assert code == 0, err


def test_csv_is_for_programs_and_csv_bom_for_spreadsheets_on_windows(folder):
    plain, marked = (
        run(folder, "utf-8", *PREDICT, "--format", kind, "图片/猫")[1]
        for kind in ("csv", "csv-bom")
    )
    assert marked == b"\xef\xbb\xbf" + plain
    rows = list(csv.DictReader(io.StringIO(marked.decode("utf-8-sig"))))
    assert {row["name"] for row in rows} == set(CLASSES)
    assert run(folder, "gbk", *PREDICT, "--format", "csv-bom", "图片/猫")[1].startswith(
        b"file,rank"
    )


def test_the_confusion_matrix_opens_right_in_a_spreadsheet(folder, tmp_path):
    records = write_records(tmp_path / "val", *bands(6, seed=1, channels=3), CLASSES)
    flags = ["--data-val", records, "--confusion", tmp_path / "x.csv"]
    done = run_script(
        "score.py", "--model-prefix", folder / "检查点" / "网络", "--load-epoch", 1, *flags
    )
    assert done.returncode == 0, done.stderr
    content = (tmp_path / "x.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf") and "猫".encode() in content
