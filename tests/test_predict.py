"""predict.py and common.evaluate.classifier.Classifier."""

import csv
import fcntl
import io
import json
import os
import resource
import struct
import subprocess
import sys
import termios
import zlib
from types import SimpleNamespace

import cv2
import mxnet as mx
import numpy as np
import pytest
import reference
from conftest import ROOT, assert_refused, run_script
from pictures import KINDS, jpeg, photo
from small_checkpoints import save_lenet

import predict
import symbols
from common import cli
from common.evaluate.classifier import Classifier
from common.records.picture import fault

CLASSES = ["cat", "dog, hot", 'a "quoted" one', "d", "e", "f", "g"]
CHANGED = "changed: 1 composited on white, 1 reduced from 16 bits to 8\n"  # of ``folder``


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Its --model-prefix and its weights as numpy arrays."""
    prefix = str(tmp_path_factory.mktemp("network") / "lenet")
    return SimpleNamespace(prefix=prefix, weights=save_lenet(prefix, CLASSES))


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    """A folder of pictures: ``good`` (path -> the picture in 8 bits and BGR) and ``bad`` paths."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "below").mkdir()
    picture = photo(50, 70)
    grey, sixteen, huge = photo(40, 40, 1)[..., 0], photo(60, 40, 2), photo(4000, 6000, 3)
    alpha = np.full((50, 70, 1), 51, np.uint8)
    on_white = np.rint(picture / 5 + 204).astype(np.uint8)
    written = {
        "a.PNG": (picture, picture),
        "below/grey.bmp": (grey, cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)),
        "below/rgba.png": (np.dstack([picture, alpha]), on_white),
        "below/sixteen.png": (sixteen.astype(np.uint16) * 257, sixteen),
        "huge.png": (huge, huge),
        "z.webp": (picture, None),  # not without loss
    }
    good = {}
    for name, (stored, seen) in written.items():
        path = str(root / name)
        assert cv2.imwrite(path, stored, [cv2.IMWRITE_PNG_COMPRESSION, 0])
        good[path] = cv2.imread(path) if seen is None else seen
    whole = (root / "a.PNG").read_bytes()
    header = whole[12:16] + (60000).to_bytes(4, "big") * 2 + whole[24:29]  # 3.6e9 pixels
    vast = whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]
    damaged = {"cut.png": whole[:3000], "empty.jpg": b"", "text.bmp": b"text", "vast.png": vast}
    for name, content in {**damaged, "notes.txt": b"text", ".hidden.jpg": b"text"}.items():
        (root / name).write_bytes(content)
    return SimpleNamespace(root=root, good=good, bad=[str(root / name) for name in damaged])


@pytest.fixture
def run(network, monkeypatch, capfd):
    """Call predict.py's ``main`` in this process: what it returned and printed."""

    def call(*flags, stdin=b""):
        command = ["--model-prefix", network.prefix, "--load-epoch", 1, *flags]
        monkeypatch.setattr("sys.argv", ["predict.py", *map(str, command)])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = predict.main()
        return SimpleNamespace(code=code, **capfd.readouterr()._asdict())

    return call


def parse_jsonl(out):
    return [json.loads(line) for line in out.splitlines()]


def test_it_says_what_numpy_computes(network):
    images = [photo(36, 50, 1), photo(64, 36, 2), photo(36, 36, 3)]  # short side 36: not resized
    crops = [images[0][2:34, 9:41], images[1][16:48, 2:34], images[2][2:34, 2:34]]
    data = (np.array(crops)[..., ::-1] - [120.0, 110, 100]) / [60.0, 50, 40]
    values = {**network.weights, "data": data.transpose(0, 3, 1, 2), "softmax_label": np.zeros(3)}
    expected = reference.run(symbols.get_symbol("lenet", 7), values)[0]
    best = np.argsort(-expected, axis=1)[:, :4]

    names, probabilities = Classifier(network.prefix, 1).predict(images, top=4)
    assert names == [[CLASSES[i] for i in row] for row in best]
    assert probabilities.shape == (3, 4) and probabilities.dtype == np.float32
    assert probabilities == pytest.approx(np.take_along_axis(expected, best, 1), abs=1e-5)
    assert np.ptp(probabilities) > 0.1  # a network that says something


def test_every_batch_size_says_the_same(network):
    images = [photo(40 + i, 60, i) for i in range(19)]
    expected = [
        Classifier(network.prefix, 1, batch_size=1).predict([image], top=7) for image in images
    ]
    for batch_size, devices in ((1, 1), (3, 1), (8, 1), (18, 1), (19, 1), (64, 1), (4, 2)):
        contexts = [mx.cpu(i) for i in range(devices)]
        classifier = Classifier(network.prefix, 1, batch_size, contexts)
        names, probabilities = classifier.predict(images, top=7)
        assert names == [row for (row,), _ in expected], batch_size
        assert np.abs(probabilities - [row for _, (row,) in expected]).max() < 1e-6, batch_size


def test_a_classifier_is_used_again_and_again(network, folder):
    classifier = Classifier(network.prefix, 1, batch_size=4)
    paths, pictures = list(folder.good), list(folder.good.values())
    of_arrays = classifier.predict(pictures)
    assert len(set(map(tuple, of_arrays[0]))) > 1  # else an answer of before would pass
    of_one = classifier.predict(pictures[3:4])
    of_files = classifier.predict(paths)
    assert of_files[0] == of_arrays[0] and np.array_equal(of_files[1], of_arrays[1])
    assert of_one[0] == of_arrays[0][3:4] and np.allclose(of_one[1], of_arrays[1][3:4], atol=1e-6)
    names, probabilities = classifier.predict([])
    assert names == [] and probabilities.shape == (0, 5)
    with pytest.raises(cli.UserError, match="cut.png: is damaged"):
        classifier.predict([*paths, *folder.bad])


def test_a_network_of_one_class_has_one_guess(tmp_path):
    prefix = str(tmp_path / "one")
    save_lenet(prefix, ["only"])
    names, probabilities = Classifier(prefix, 1).predict([photo(40, 40)] * 3)
    assert names == [["only"]] * 3
    assert np.array_equal(probabilities, np.ones((3, 1)))


def test_a_folder_is_named_in_order_and_what_is_damaged_reported(network, folder, run):
    result = run(folder.root, "--format", "jsonl", "--batch-size", 2, "--top-k", 3)
    said = parse_jsonl(result.out)
    assert [line["file"] for line in said] == sorted(folder.good)
    pictures = [folder.good[line["file"]] for line in said]
    names, probabilities = Classifier(network.prefix, 1).predict(pictures, top=3)
    for line, row, values in zip(said, names, probabilities):
        assert [guess["name"] for guess in line["guesses"]] == row
        assert [guess["probability"] for guess in line["guesses"]] == pytest.approx(values, 1e-4)
    assert result.code == 1
    ignored, *reported, changed = result.err.splitlines()
    assert ignored == "ignored: 1 .txt"  # but not the hidden file
    assert changed + "\n" == CHANGED
    assert len(reported) == len(folder.bad) and "60000x60000 pixels, more than" in reported[-1]
    for line, path in zip(reported, sorted(folder.bad)):
        assert line.startswith(path + ": ")


def test_good_files_alone_are_a_success(folder, run):
    result = run(*folder.good)
    assert result.code == 0 and result.err == CHANGED
    lines = result.out.splitlines()
    assert lines[::6] == list(folder.good)  # a path, then five guesses
    shares = [float(line.split("%")[0]) for line in lines[1:6]]
    assert shares == sorted(shares, reverse=True) and lines[1][10:] in CLASSES


def test_all_formats_say_the_same(folder, run):
    path = max(folder.good)
    (line,) = parse_jsonl(run(path, "--format", "jsonl", "--top-k", 7).out)
    rows = list(csv.DictReader(io.StringIO(run(path, "--format", "csv", "--top-k", 7).out)))
    text = run(path, "--top-k", 7).out.splitlines()
    guesses = [(guess["name"], guess["probability"]) for guess in line["guesses"]]
    assert {name for name, _ in guesses} == set(CLASSES)
    assert sum(probability for _, probability in guesses) == pytest.approx(1)
    assert [(row["name"], float(row["probability"])) for row in rows] == guesses
    assert [(row["file"], row["rank"]) for row in rows] == [(path, str(i + 1)) for i in range(7)]
    assert text == [path, *(f"  {probability:6.1%}  {name}" for name, probability in guesses)]


def test_stdin_names_files_and_folders(folder, run):
    below = str(folder.root / "below")
    first, *_, last = folder.good
    lines = f"{last}\n\n{below}\r\nno such.jpg\n"
    result = run(first, "-", "--format", "jsonl", stdin=lines.encode())
    expected = [first, last, *sorted(path for path in folder.good if path.startswith(below))]
    assert [line["file"] for line in parse_jsonl(result.out)] == expected
    assert result.err == "no such.jpg: No such file or directory\n" + CHANGED and result.code == 1
    with pytest.raises(cli.UserError, match="-: no pictures there"):
        run("-")


def test_a_process_ends_with_1_and_prints_paths_byte_for_byte(network, folder, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9\n.bmp")
    cv2.imwrite(str(tmp_path / "x.bmp"), photo(40, 40))
    (tmp_path / "x.bmp").rename(path)
    flags = ["--model-prefix", network.prefix, "--load-epoch", "1", "--format", "csv"]
    result = subprocess.run(
        [sys.executable, "predict.py", *flags, tmp_path, folder.bad[0]],
        cwd=ROOT,
        capture_output=True,
        timeout=300,
    )
    assert result.returncode == 1
    assert result.stdout.startswith(b'file,rank,name,probability\n"' + os.fsencode(path) + b'",1,')
    assert result.stderr.splitlines()[0].startswith(os.fsencode(folder.bad[0]))


@pytest.mark.parametrize("batch_size, drawn", [(2, True), (64, False)])
def test_a_terminal_shows_progress_over_more_than_a_batch(network, folder, batch_size, drawn):
    terminal, end = os.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    flags = ["--model-prefix", network.prefix, "--load-epoch", 1, "--batch-size", batch_size]
    result = subprocess.run(
        [sys.executable, "predict.py", *map(str, flags), *folder.good],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=end,
        timeout=300,
    )
    os.write(end, b".")
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal), os.close(end)
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 6 * len(folder.good)
    assert ("/6 [" in shown) == drawn, shown


def test_readmes_lines_of_the_library_run(network, folder):
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        blocks = [block.split("```")[0] for block in file.read().split("```python\n")[1:]]
    (code,) = (block for block in blocks if "Classifier" in block)
    paths = iter(folder.good)
    for name in ("checkpoints/alexnet-cifar10", "cat.jpg", "lorry.jpg"):
        assert name in code
        code = code.replace(name, network.prefix if "/" in name else next(paths))
    result = run_script("-c", code.replace(", 3)", ", 1)"))
    assert result.returncode == 0 and result.stdout.count("\n") == 2, result.stderr
    assert all(line.rpartition(" ")[0] in CLASSES for line in result.stdout.splitlines())


def test_damaged_pictures_are_named_and_the_rest_is_done(tmp_path, run):
    """Every fifth of forty JPEGs is whole; a sector of the others is zeroed."""
    whole = {}
    for i in range(40):
        image = bytearray(jpeg(375, 500, seed=i))
        if i % 5:
            at = max(2, len(image) * (1 + i % 8) // 5120) * 512
            image[at : at + 512] = bytes(512)
        path = tmp_path / f"{i:02d}.jpg"
        path.write_bytes(image)
        whole[str(path)] = fault(bytes(image)) is None  # some damage leaves no trace in a JPEG
    assert all(whole[path] for path in list(whole)[::5]) and sum(whole.values()) <= 20
    result = run(tmp_path, "--format", "jsonl")
    assert result.code == 1
    assert [line["file"] for line in parse_jsonl(result.out)] == [p for p in whole if whole[p]]
    named = [line.partition(": is damaged (")[0] for line in result.err.splitlines()]
    assert named == [path for path in whole if not whole[path]]


def test_a_narrow_picture_is_cut_before_it_is_enlarged(folder, tmp_path, run):
    """Whole, the 1x65535 picture would be enlarged to 36x2359260 pixels, or 255 MB."""
    path = tmp_path / "narrow.png"
    cv2.imwrite(str(path), photo(1, 65535))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = run(path, max(folder.good), "--format", "jsonl")
    assert result.code == 0 and len(parse_jsonl(result.out)) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # KiB


def test_the_number_of_pixels_is_limited(folder, tmp_path, run):
    small, large = tmp_path / "a.png", tmp_path / "b.png"
    cv2.imwrite(str(small), photo(40, 50))
    cv2.imwrite(str(large), photo(40, 51))
    result = run(small, large, "--max-pixels", 2000, "--format", "jsonl")
    assert [line["file"] for line in parse_jsonl(result.out)] == [str(small)]
    assert result.err == f"{large}: has 51x40 pixels, more than 2000\n" and result.code == 1


def test_pictures_whose_pixels_were_changed_are_counted(tmp_path, run):
    for name in ("alpha.png", "of 16 bits.png", "grey of 16 bits.png", "baseline.jpg", "x.BMP"):
        (tmp_path / name).write_bytes(KINDS[name])
    result = run(tmp_path)
    assert result.code == 0 and result.out.count(str(tmp_path)) == 5
    assert result.err == "changed: 1 composited on white, 2 reduced from 16 bits to 8\n"


def test_what_is_ignored_in_a_folder_is_counted(tmp_path, run):
    cv2.imwrite(str(tmp_path / "a.png"), photo(40, 50))
    (tmp_path / "below").mkdir()
    for name in ("a.HEIC", "b.heic", "below/c.heic", "d.avif", "e.gif", "README", ".hidden.heic"):
        (tmp_path / name).write_bytes(b"text")
    result = run(tmp_path)
    assert result.code == 0 and result.out.count("a.png") == 1
    assert result.err == "ignored: 1 .avif, 1 .gif, 3 .heic, 1 without extension\n"
    (tmp_path / "a.png").unlink()
    with pytest.raises(cli.UserError, match="no pictures there .*ignored: 1 .avif"):
        run(tmp_path)


def test_features_of_no_picture_leave_the_file_alone(folder, tmp_path, run):
    out = tmp_path / "x.npz"
    out.write_text("of before")
    with pytest.raises(cli.UserError, match="no picture could be read"):
        run(folder.bad[0], "--features", "f6", "--out", out)
    assert out.read_text() == "of before" and os.listdir(tmp_path) == ["x.npz"]


def test_features_are_a_layers_outputs(network, folder, tmp_path, run):
    out = tmp_path / "x.npz"
    paths = [*folder.good, *folder.bad[:1]]
    result = run(*paths, "--features", "f6", "--out", out)
    assert result.code == 1 and result.out == "" and folder.bad[0] in result.err
    with np.load(out) as file:
        assert list(file["files"]) == list(folder.good)
        features = file["features"]
    assert features.shape == (len(folder.good), 84) and features.dtype == np.float32
    hidden = np.tanh(features) @ network.weights["output_weight"].T + network.weights["output_bias"]
    shares = np.exp(hidden) / np.exp(hidden).sum(1, keepdims=True)
    names, expected = Classifier(network.prefix, 1).predict(list(folder.good), len(CLASSES))
    for row, listed, probabilities in zip(shares, names, expected):
        found = [row[CLASSES.index(name)] for name in listed]
        np.testing.assert_allclose(found, probabilities, rtol=1e-4, atol=1e-6)


def test_features_as_npy_and_csv_are_those_of_npz(folder, tmp_path, run):
    names = ["x.npz", "x.npy", "x.CSV"]
    for name in names:
        run(*folder.good, *folder.bad[:1], "--features", "c1", "--out", tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    with np.load(tmp_path / "x.npz") as file:
        files, features = list(file["files"]), file["features"]
    assert features.ndim == 4 and np.array_equal(np.load(tmp_path / "x.npy"), features)
    with open(tmp_path / "x.CSV", newline="", encoding="utf-8-sig") as file:
        header, *rows = csv.reader(file)
    flat = features.reshape(len(files), -1)
    assert header == ["file", *map(str, range(flat.shape[1]))]
    assert [row[0] for row in rows] == files
    np.testing.assert_allclose(np.float32([row[1:] for row in rows]), flat, rtol=1e-6)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--features", "f6", "--out", "x.parquet"], ["x.parquet: has to end in .npz or .npy or"]),
        (["--features", "fc9", "--out", "x.npz"], ["layer fc9: is not", "c1", "output, softmax"]),
        (["--features", "f6"], ["--out X.npz: give both"]),
        (["--features", "f6", "--out", "x.npz", "--top-k", 3], ["are not for --features"]),
        (["--features", "f6", "--out", "x.npz", "--format", "csv"], ["are not for --features"]),
        (["--features", "f6", "--out", "missing/x.npz"], ["missing"]),
    ],
)
def test_features_that_cannot_be_are_refused(network, folder, tmp_path, flags, words):
    command = [os.path.join(ROOT, "predict.py"), next(iter(folder.good)), *flags]
    more = ["--model-prefix", network.prefix, "--load-epoch", 1]
    assert_refused(run_script(*command, *more, cwd=tmp_path), *words)
    assert not list(tmp_path.iterdir())
