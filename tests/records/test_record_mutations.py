"""Two thousand ways to damage record files: refused in a line, or read; never a signal, no hang."""

import os
import subprocess
import sys

import cv2
import mxnet as mx
import pytest
from conftest import ROOT
from mutations import mutate
from pictures import file, jpeg, photo

from common.cli import UserError
from common.records.format import MAGIC
from common.records.index import index_path
from common.records.scan import scan_records
from common.records.walk import walk_records
from common.records.writer import create_records
from common.runtime import native

SEEDS = range(2000)
BATCH = 4
IMAGES = [
    jpeg(30, 40),
    jpeg(30, 40, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    # A comment that holds the magic number: this record is stored in parts.
    b"\xff\xd8\xff\xfe\0\x0axx" + MAGIC.to_bytes(4, "little") + b"xx" + jpeg(25, 30)[2:],
    file(".png", photo(24, 28)),
    file(".bmp", photo(22, 22)),
    file(".tiff", photo(22, 22)),
]


def make(folder):
    """Twelve good records, of every format and one of two in parts; the path of the .rec."""
    with create_records(os.path.join(folder, "whole"), ["a", "b"]) as writer:
        for i in range(12):
            writer.write(i % 2, IMAGES[i % len(IMAGES)])
    return os.path.join(folder, "whole.rec")


def damage(folder, seed):
    """Write whole.rec and .idx with the fault of ``seed`` in one of them; the path of the .rec."""
    path = os.path.join(folder, "damaged.rec")
    for ending in (".rec", ".idx"):
        with open(os.path.join(folder, f"whole{ending}"), "rb") as file:
            content = file.read()
        if (ending == ".idx") == (seed % 4 == 0):
            content = mutate(content, seed, _heads(content) if ending == ".rec" else ())
        with open(path[:-4] + ending, "wb") as file:
            file.write(content)
    return path


def _heads(content):
    """The offsets of all that is no picture: of the words of each record's head."""
    starts = [at for at, *_ in walk_records(content)]
    return [at + word for at in starts for word in range(0, 32, 4)]


def read(folder, first, last):
    """Print what becomes of the files of some seeds, in a process that may die of one."""
    assert native.load()  # as common/input/pipeline.py does; without it MXNet dies of some images
    for seed in range(first, last):
        print("seed", seed, flush=True)
        path = damage(folder, seed)
        try:
            steps = -(-len(scan_records(path)) // BATCH)
            whole = steps == sum(1 for _ in batches(path))
            print("read" if whole else "read in part", flush=True)
        except UserError as refusal:
            assert "\n" not in str(refusal)
            print("refused", flush=True)
        except (
            mx.base.MXNetError
        ):  # an image that it cannot prepare: common/input/pipeline.py names the file
            print("undecodable", flush=True)


def batches(path):
    return mx.io.ImageRecordIter(
        ctx="cpu",
        path_imgrec=path,
        path_imgidx=index_path(path),
        data_shape=(3, 20, 20),
        batch_size=BATCH,
        resize=24,
        rand_crop=True,
        shuffle=True,
        dtype="uint8",
        verbose=False,
    )


def outcomes(folder, seeds):
    """{seed: 'read', 'refused', 'undecodable', or the exit code of the process that it killed}."""
    found, first = {}, seeds.start
    while first < seeds.stop:
        read = f"t.read({str(folder)!r}, {first}, {seeds.stop})"
        call = f"import common.runtime.mxnet, test_record_mutations as t; {read}"
        done = subprocess.run(
            [sys.executable, "-c", call],
            cwd=os.path.dirname(__file__),
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
            capture_output=True,
            text=True,
            timeout=300,  # a hang
        )
        lines = done.stdout.splitlines()
        for seed, outcome in zip(lines[0::2], lines[1::2]):
            found[int(seed.split()[1])] = outcome
        if len(lines) % 2:
            found[int(lines[-1].split()[1])] = done.returncode
            assert done.returncode < 0, f"{lines[-1]}: {done.stderr[-2000:]}"
        else:
            assert done.returncode == 0, done.stderr[-2000:]
        first = max(found) + 1
    return found


@pytest.mark.slow
def test_damaged_record_files_are_refused_or_read(tmp_path):
    make(tmp_path)

    found = outcomes(tmp_path, SEEDS)

    assert sorted(found) == list(SEEDS)
    kinds = list(found.values())
    assert set(kinds) == {"read", "refused", "undecodable"}, found
    assert kinds.count("read") > 50 and kinds.count("refused") > 500
