"""Two thousand ways to damage record files: refused in a line, or read right; never a crash."""

import collections
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
from common.records.checksums import read_checksums
from common.records.format import MAGIC
from common.records.index import index_path, read_index
from common.records.scan import scan_records
from common.records.walk import open_records, walk_records
from common.records.writer import create_records
from common.runtime import native
from data import check

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
    """Write whole.rec and its companions with the fault of ``seed`` in one; the path of the .rec.

    Of eight seeds two damage the index, one the checksums, and five the records.
    """
    path = os.path.join(folder, "damaged.rec")
    mutated = {0: ".idx", 4: ".idx", 1: "-checksums.npy"}.get(seed % 8, ".rec")
    for ending in (".rec", ".idx", "-checksums.npy"):
        with open(os.path.join(folder, f"whole{ending}"), "rb") as file:
            content = file.read()
        if ending == mutated:
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
    intact = examples(os.path.join(folder, "whole.rec"))
    for seed in range(first, last):
        print("seed", seed, flush=True)
        print(outcome(damage(folder, seed), intact), flush=True)


def outcome(path, intact):
    """What becomes of a damaged file: refused, or read, and then how it differs from the intact."""
    try:
        scan_records(path)
        seen = examples(path)
    except UserError as refusal:
        assert "\n" not in str(refusal)
        return "refused"
    except (
        mx.base.MXNetError
    ):  # a picture it cannot prepare: common/input/pipeline.py names the file
        return "undecodable"
    if seen == intact:
        return "read right"
    if [label for label, _ in seen] != [label for label, _ in intact]:
        return "other labels"
    return "pixels differ, named by data.check" if is_named(path) else "pixels differ"


def is_named(path):
    """Whether data.check names the record of a damaged picture."""
    with open_records(path) as content:
        listed = list(check.structure(content, read_index(path)))
        compared, _ = check.compare_checksums(content, listed, read_checksums(path), path)
    return any(record.fault for record in compared)


def examples(path):
    """(label, pixels) of all images that MXNet reads, sorted."""
    batches = mx.io.ImageRecordIter(
        ctx="cpu",
        path_imgrec=path,
        path_imgidx=index_path(path),
        data_shape=(3, 20, 20),
        batch_size=BATCH,
        resize=24,
        shuffle=True,
        dtype="uint8",
        verbose=False,
    )
    found = []
    for batch in batches:
        count = BATCH - batch.pad
        labels, pixels = batch.label[0].asnumpy()[:count], batch.data[0].asnumpy()[:count]
        found += [(label, image.tobytes()) for label, image in zip(labels.tolist(), pixels)]
    return sorted(found)


def outcomes(folder, seeds):
    """{seed: what :func:`outcome` says, or the exit code of the process that it killed}."""
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
    kinds = collections.Counter(found.values())
    named = "pixels differ, named by data.check"
    assert set(kinds) == {"read right", "refused", "undecodable", named}, kinds
    assert kinds["read right"] > 50 and kinds["refused"] > 500 and kinds[named] > 50
