"""Models of Caffe and ONNX for the tests of import_weights.py, and what those tests share."""

import re
from types import SimpleNamespace

import bvlc_alexnet
import cv2
import mutations
import numpy as np
import pytest
from conftest import run_script
from pictures import photo

import import_weights
import symbols
from common import cli
from common.checkpoint import store
from common.convert import alexnet_import
from common.evaluate.classifier import Classifier

CLASSES, SIDE, FEATURES = 10, 64, 256  # at 64 it matters that Caffe rounds map sizes up
MEAN = "123,117,104"


def caffe_model(folder, caffenet=False):
    """A Caffe model with random weights: its files, arrays and class names, and a picture."""
    arrays = bvlc_alexnet.weights(CLASSES, FEATURES)
    made = SimpleNamespace(
        arrays=arrays,
        prototxt=folder / "deploy.prototxt",
        model=folder / "x.caffemodel",
        names=folder / "names.txt",
        picture=folder / "picture.png",
    )
    made.prototxt.write_text(bvlc_alexnet.prototxt(CLASSES, SIDE, caffenet=caffenet))
    made.model.write_bytes(bvlc_alexnet.caffemodel(arrays))
    made.names.write_text("".join(f"n0000000{i} name {i}, synonym\n" for i in range(CLASSES)))
    cv2.imwrite(str(made.picture), photo(SIDE, SIDE))
    return made


def import_model(caffe, prefix):
    """Import a Caffe model as the checkpoint ``prefix``; return what the script said."""
    more = ["--class-names", caffe.names, "--mean", MEAN, "--resize", SIDE]
    result = run_script("import_weights.py", *flags(caffe), "--out-prefix", prefix, *more)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    return result.stdout


def flags(caffe, prototxt=None, model=None):
    return [prototxt or caffe.prototxt, model or caffe.model]


def run(monkeypatch, *command):
    monkeypatch.setattr("sys.argv", ["import_weights.py", *map(str, command)])
    import_weights.main()


def assert_refused(monkeypatch, folder, command, words):
    """One line that matches ``words``, and nothing written."""
    out = folder / "new" / "out"
    with pytest.raises(cli.UserError, match=words) as refused:
        run(monkeypatch, *command, "--out-prefix", out)
    assert "\n" not in str(refused.value)
    assert not out.parent.exists()


def guesses(prefix, picture):
    """Class -> probability, of a checkpoint on a BGR picture."""
    (names,), (probabilities,) = Classifier(prefix, 0).predict([picture], CLASSES)
    return dict(zip(names, probabilities))


def assert_same(prefix, source):
    """The checkpoint is what ``source`` gives, to the bit, and OpenCV's reading of it agrees."""
    symbol, weights, _ = store.load(prefix, 0)
    again = alexnet_import.build(source, symbols.get_symbol)
    found = alexnet_import.weights(source, again)
    assert again.tojson() == symbol.tojson() and found.keys() == weights.keys()
    assert all(np.array_equal(found[name].asnumpy(), weights[name].asnumpy()) for name in found)
    print(f"{source.files[-1]}: {alexnet_import.difference(again, found, source, [120] * 3):.1e}")


def assert_damage_is_refused(path, command, content, telling, monkeypatch, capfd):
    """A hundred damaged files: each is one line, or a network that OpenCV agrees with."""
    places = [at for found in re.finditer(telling, content) for at in range(*found.span())]
    refused = 0
    for seed in range(100):
        path.write_bytes(mutations.mutate(content, seed, places))
        try:
            run(monkeypatch, *command, "--out-prefix", path.parent / "out", "--overwrite")
        except cli.UserError as error:
            refused += 1
            assert "\n" not in str(error)
        assert capfd.readouterr().err == ""
    print(f"{path.name}: {refused} of 100 refused")
    assert refused > 20
