"""--pretrained: what is taken over, what is frozen, what it is worth."""

import json
import time

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, run_script, write_records

import symbols
from common.checkpoint import store
from common.cli import UserError
from common.records.scan import scan_records
from common.train import finetune
from data import cifar10

LENET = ["--network", "lenet", "--dataset", "mnist", "--batch-size", 16, "--num-epochs", 1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Prefix of a LeNet with five classes and random weights."""
    prefix = str(tmp_path_factory.mktemp("source") / "five")
    module = mx.mod.Module(symbols.get_symbol("lenet", 5))
    module.bind([("data", (1, 1, 32, 32))], [("softmax_label", (1,))])
    module.init_params(mx.init.Xavier())
    store.save(prefix, 2, module.symbol, *module.get_params())
    return prefix


def load(prefix, *freeze, classes=3):
    return finetune.load(symbols.get_symbol("lenet", classes), (1, 32, 32), prefix, 2, freeze)


def test_what_fits_is_taken_and_the_rest_is_named(source):
    found = load(source)
    assert found.other == ["output_weight", "output_bias"]
    saved = mx.nd.load(f"{source}-0002.params")
    for name, array in found.arg_params.items():
        assert np.array_equal(array.asnumpy(), saved[f"arg:{name}"].asnumpy())
    assert load(source, classes=5).other == []


def test_flags_that_make_no_sense_are_refused(source):
    with pytest.raises(UserError, match="--freeze xyz: no layer"):
        load(source, "xyz")
    with pytest.raises(UserError, match="is not in --pretrained, so it must be trained"):
        load(source, load(source).other[0])
    with pytest.raises(UserError, match="leaves nothing to train"):
        load(source, "c", "f6", "output", classes=5)
    for flags, words in (
        (["--pretrained", source], "--pretrained-epoch"),
        (["--freeze", "conv"], "--pretrained"),
        (["--new-lr-mult", 3], "--pretrained"),
        (["--pretrained", source, "--pretrained-epoch", 9], "0009"),
    ):
        command = [*LENET, "--benchmark", 1, "--num-classes", 3, *flags]
        assert_refused(run_script("train_imagenet.py", *command), words)


def test_a_network_of_which_nothing_fits_is_refused(source, tmp_path):
    prefix = str(tmp_path / "other")
    store.save(prefix, 2, mx.sym.Variable("x") + 1, {"x": mx.nd.zeros(3)}, {})
    with pytest.raises(UserError, match="none of its weights fits"):
        load(prefix)


def test_frozen_layers_stay_and_the_others_learn(source, grey, tmp_path):
    prefix = str(tmp_path / "tuned")
    flags = ["--data-train", grey.train, "--model-prefix", prefix, "--freeze", "c1,c3"]
    pretrained = ["--pretrained", source, "--pretrained-epoch", 2]
    result = run_script("train_imagenet.py", *LENET, *flags, *pretrained)
    assert result.returncode == 0, result.stderr
    assert "frozen; new: " in result.stdout
    before, after = mx.nd.load(f"{source}-0002.params"), mx.nd.load(f"{prefix}-0001.params")
    same = {name for name in after if np.array_equal(after[name].asnumpy(), before[name].asnumpy())}
    assert same == {name for name in after if name[4:6] in ("c1", "c3")}
    # A frozen weight has no optimizer state, and resuming knows.
    more = ["--num-epochs", 2, "--resume"]
    result = run_script("train_imagenet.py", *LENET, *flags, *pretrained, *more)
    assert result.returncode == 0, result.stderr
    assert_refused(
        run_script("train_imagenet.py", *LENET, *flags[:-2], *pretrained, "--resume"), "--freeze"
    )


def test_new_layers_have_a_learning_rate_of_their_own(source, grey, tmp_path):
    """With a multiplier of 0 they stay at their random start, the same for the same seed."""
    ends = []
    for mult in (0, 0, 1):
        prefix = str(tmp_path / f"m{len(ends)}")
        flags = ["--data-train", grey.train, "--model-prefix", prefix, "--new-lr-mult", mult]
        flags += ["--pretrained", source, "--pretrained-epoch", 2, "--lr", 0.05 + len(ends) / 100]
        assert run_script("train_imagenet.py", *LENET, *flags).returncode == 0
        ends.append(mx.nd.load(f"{prefix}-0001.params"))
    last = "arg:output_weight"
    assert np.array_equal(ends[0][last].asnumpy(), ends[1][last].asnumpy())
    assert not np.array_equal(ends[0][last].asnumpy(), ends[2][last].asnumpy())
    first = "arg:c1_weight"
    assert not np.array_equal(ends[0][first].asnumpy(), ends[1][first].asnumpy())


@pytest.mark.slow
def test_cifar10_features_beat_training_from_nothing_for_the_same_time(tmp_path):
    """AlexNet learns eight classes; cat and dog, 500 pictures each, are then two new ones."""
    cifar10.main(["--out", str(tmp_path)])
    others = subset(tmp_path / "train.rec", tmp_path / "eight", [0, 1, 2, 4, 6, 7, 8, 9], 5000)
    train = subset(tmp_path / "train.rec", tmp_path / "train2", [3, 5], 500)
    val = subset(tmp_path / "val.rec", tmp_path / "val2", [3, 5], 1000)
    base = ["--network", "alexnet", "--dataset", "cifar10", "--batch-size", 64]
    source = ["--data-train", others, "--model-prefix", tmp_path / "source", "--num-epochs", 2]
    assert run_script("train_imagenet.py", *base, *source, timeout=900).returncode == 0

    tune = ["--pretrained", tmp_path / "source", "--pretrained-epoch", 2, "--freeze", "conv"]
    accuracies, seconds = {}, {}
    # Frozen layers make an epoch shorter: the other run gets more of them.
    for name, flags, epochs in (("tuned", tune, 6), ("anew", [], 6)):
        prefix = tmp_path / name
        flags = [*flags, "--lr", 0.01, "--num-epochs", epochs, "--warmup-epochs", 0]
        data = ["--data-train", train, "--data-val", val, "--model-prefix", prefix, "--keep", 1]
        started = time.monotonic()
        result = run_script("train_imagenet.py", *base, *flags, *data, timeout=900)
        seconds[name] = time.monotonic() - started
        assert result.returncode == 0, result.stderr
        with open(f"{prefix}-log.jsonl") as file:
            last = [event for event in map(json.loads, file) if event["event"] == "epoch"][-1]
        accuracies[name] = last["val"]["top-1"]
    print(accuracies, seconds)
    assert seconds["tuned"] < seconds["anew"]
    assert accuracies["tuned"] > accuracies["anew"] + 0.03


def subset(path, prefix, classes, most):
    """Records of the first ``most`` pictures of each of ``classes``, numbered anew."""
    found = scan_records(str(path))
    content = path.read_bytes()
    images, labels = [], []
    for label, wanted in enumerate(classes):
        for at in found.offsets[found.labels == wanted][:most]:
            length = int.from_bytes(content[at + 4 : at + 8], "little")
            image = np.frombuffer(content[at + 8 + 24 : at + 8 + length], np.uint8)
            images.append(cv2.imdecode(image, cv2.IMREAD_COLOR))
            labels.append(label)
    return write_records(prefix, images, labels)
