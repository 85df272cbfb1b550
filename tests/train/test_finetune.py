"""--pretrained: what is taken over, what is frozen, what it is worth."""

import json
import shutil
import time
from pathlib import Path

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import assert_refused, bands, run_here, run_script, train, write_records

import symbols
import train_imagenet
from common.checkpoint import store
from common.checkpoint.config import load_config, save_config
from common.cli import UserError
from common.convert.compare import without_training
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
    _, weights, _ = store.load(prefix, 2)
    symbol = symbols.get_symbol("lenet", classes)
    return finetune.select(symbol, (1, 32, 32), prefix, weights, freeze)


def test_what_fits_is_taken_and_the_rest_is_named(source):
    found = load(source)
    assert found.other == ["output_weight", "output_bias"]
    saved = mx.nd.load(f"{source}-0002.params")
    for name, array in found.params.items():
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
        (["--pretrained", source, "--pretrained-epoch", 9], "0009"),
    ):
        command = [*LENET, "--benchmark", 1, "--num-classes", 3, *flags]
        assert_refused(run_here(train_imagenet.main, *command), words)


def test_a_network_of_which_nothing_fits_is_refused(source, tmp_path):
    prefix = str(tmp_path / "other")
    store.save(prefix, 2, mx.sym.Variable("x") + 1, {"x": mx.nd.zeros(3)}, {})
    with pytest.raises(UserError, match="none of its weights fits"):
        load(prefix)


def test_frozen_layers_stay_and_the_others_learn(source, grey, tmp_path):
    prefix = str(tmp_path / "tuned")
    flags = ["--data-train", grey.train, "--model-prefix", prefix, "--freeze", "c1,c3"]
    pretrained = ["--pretrained", source, "--pretrained-epoch", 2]
    result = run_here(train_imagenet.main, *LENET, *flags, *pretrained)
    assert result.returncode == 0, result.stderr
    assert "frozen; new: " in result.stdout
    before, after = mx.nd.load(f"{source}-0002.params"), mx.nd.load(f"{prefix}-0001.params")
    same = {name for name in after if np.array_equal(after[name].asnumpy(), before[name].asnumpy())}
    assert same == {name for name in after if name[4:6] in ("c1", "c3")}
    # A frozen weight has no optimizer state, and resuming knows.
    more = ["--num-epochs", 2, "--resume"]
    result = run_here(train_imagenet.main, *LENET, *flags, *pretrained, *more)
    assert result.returncode == 0, result.stderr
    assert_refused(
        run_here(train_imagenet.main, *LENET, *flags[:-2], *pretrained, "--resume"), "--freeze"
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """As import_weights.py writes it: number 0, Caffe's LRN, pooling and mean."""
    prefix = str(tmp_path_factory.mktemp("imported") / "caffe")
    symbol = symbols.get_symbol("alexnet2012", 5, knorm=1, pooling_convention="full")
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, 3, 67, 67))], [("softmax_label", (1,))])
    module.init_params(mx.init.Normal(0.01))
    store.save(prefix, 0, symbol, *module.get_params())
    args = {"network": "alexnet2012", "num_classes": 5, "image_shape": [3, 67, 67], "resize": 80}
    save_config(prefix, {**args, "rgb_mean": [104.0, 117.0, 123.0], "rgb_std": [1.0] * 3}, None)
    return prefix


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    images, labels = bands(16, seed=1, size=80, channels=3)
    return write_records(tmp_path_factory.mktemp("coloured") / "c", images, labels)


def tune(source, epoch, records, prefix, *flags):
    flags = ["--data-train", records, "--model-prefix", prefix, "--batch-size", 8, *flags]
    flags += ["--pretrained", source, "--pretrained-epoch", epoch, "--num-epochs", 1]
    return train(*flags)


def test_graph_and_preparation_come_with_the_weights(imported, coloured, tmp_path):
    prefix = str(tmp_path / "tuned")
    result = tune(imported, 0, coloured, prefix)
    assert result.returncode == 0, result.stderr
    assert "graph: its own; preparation: its own\n" in result.stdout
    symbol, _, _ = store.load(prefix, 1)
    expected = symbols.get_symbol("alexnet2012", 3, knorm=1, pooling_convention="full")
    assert symbol.tojson() == expected.tojson()
    before, after = load_config(imported)["args"], load_config(prefix)["args"]
    for name in ("network", "image_shape", "resize", "rgb_mean", "rgb_std"):
        assert after[name] == before[name], name


def test_flags_override_the_preparation_and_another_network_has_its_own_graph(
    imported, coloured, tmp_path
):
    prefix = str(tmp_path / "tuned")
    result = tune(imported, 0, coloured, prefix, "--rgb-std", "60,60,60", "--network", "alexnet")
    assert "graph: alexnet, not its own; preparation: its own but for --rgb-std\n" in result.stdout
    assert load_config(prefix)["args"]["rgb_std"] == [60.0] * 3
    assert store.load(prefix, 1)[0].tojson() == symbols.get_symbol("alexnet", 3).tojson()


def test_a_source_without_a_config_is_prepared_by_the_recipe_and_the_run_says_so(
    source, grey, tmp_path
):
    result = tune(source, 2, grey.train, tmp_path / "tuned", *LENET)
    assert (
        "it has no" in result.stdout
        and "the preparation is that of the recipe and" in result.stdout
    )


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_the_source_is_not_replaced_even_if_its_number_is_0(imported, coloured, flags):
    files = {path: path.read_bytes() for path in Path(imported).parent.iterdir()}
    result = tune(imported, 0, coloured, imported, *flags)
    assert_refused(result, "--pretrained and --model-prefix: are the same")
    assert {path: path.read_bytes() for path in Path(imported).parent.iterdir()} == files


def test_a_graph_without_a_trainable_end_is_refused(imported, coloured, tmp_path):
    symbol, *weights = store.load(imported, 0)
    prefix = str(tmp_path / "deploy")
    store.save(prefix, 0, without_training(symbol), *weights, config=load_config(imported))
    assert_refused(tune(prefix, 0, coloured, tmp_path / "x"), "does not end in", "not an exported")


def named(folder, names, seed=1):
    images, _ = bands(24, seed=seed)
    return write_records(folder / "-".join(names), images, np.arange(24) % len(names), names)


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """The prefix of a LeNet for cat, dog and emu."""
    folder = tmp_path_factory.mktemp("animals")
    path = named(folder, ["cat", "dog", "emu"])
    result = train(*LENET, "--data-train", path, "--model-prefix", folder / "x")
    assert result.returncode == 0, result.stderr
    return str(folder / "x")


FROZEN = ["--lr", 1e-30, "--network", "lenet", "--dataset", "mnist"]  # weights stay as they begin


def test_rows_of_the_output_layer_follow_the_names_of_the_classes(animals, tmp_path):
    path = named(tmp_path, ["ant", "cat", "dog"])
    result = tune(animals, 1, path, tmp_path / "x", *FROZEN)
    said = " ".join(result.stdout.split())
    assert (
        "new: output_weight, output_bias; classes: 2 of 3 known by their names (cat, dog)" in said
    )
    before, after = (
        mx.nd.load(f"{animals}-0001.params"),
        mx.nd.load(f"{tmp_path / 'x'}-0001.params"),
    )
    for name in ("arg:output_weight", "arg:output_bias"):
        old, new = before[name].asnumpy(), after[name].asnumpy()
        assert np.array_equal(new[1:], old[:2])  # cat, dog
        assert not np.array_equal(new[0], old[0]) or name.endswith("bias")


@pytest.mark.parametrize(
    "names, said",
    [
        (["cat", "dog", "emu"], "new: none; classes: the same"),
        (["ant", "bee", "owl"], "new: output_weight, output_bias; classes: new"),
        (["cat", "dog"], "new: output_weight, output_bias; classes: 2 of 2 known by their names"),
    ],
)
def test_what_becomes_of_the_classes_is_said(animals, tmp_path, names, said):
    result = tune(animals, 1, named(tmp_path, names), tmp_path / "x", *FROZEN)
    assert result.returncode == 0, result.stderr
    assert said in " ".join(result.stdout.split())


def test_without_names_it_is_said_what_is_assumed(source, tmp_path):
    path = named(tmp_path, list("abcde"))
    result = tune(source, 2, path, tmp_path / "x", *FROZEN)
    assert "classes: taken to be the same, in the same order" in " ".join(result.stdout.split())


def test_resuming_with_other_names_is_refused(animals, tmp_path):
    shutil.copytree(Path(animals).parent, tmp_path / "copy")
    folder = tmp_path / "copy"
    (folder / "cat-dog-emu-classes.txt").write_text("cat\nemu\ndog\n")
    flags = ["--data-train", folder / "cat-dog-emu.rec", "--model-prefix", folder / "x"]
    result = train(*LENET, *flags, "--resume", "--num-epochs", 2)
    assert_refused(result, "its -classes.txt has other names than", "x-config.json")


@pytest.mark.slow
def test_cifar10_features_beat_training_from_nothing_for_the_same_time(tmp_path):
    """AlexNet learns eight classes; cat and dog, 500 pictures each, are then two new ones."""
    cifar10.main(["--out", str(tmp_path)])
    others = subset(tmp_path / "train.rec", tmp_path / "eight", [0, 1, 2, 4, 6, 7, 8, 9], 5000)
    train = subset(tmp_path / "train.rec", tmp_path / "train2", [3, 5], 500)
    val = subset(tmp_path / "val.rec", tmp_path / "val2", [3, 5], 1000)
    base = ["--network", "alexnet", "--dataset", "cifar10", "--batch-size", 64]
    source = ["--data-train", others, "--model-prefix", tmp_path / "source", "--num-epochs", 2]
    assert run_script("train_imagenet.py", *base, *source, timeout=3600).returncode == 0

    tune = ["--pretrained", tmp_path / "source", "--pretrained-epoch", 2, "--freeze", "conv"]
    accuracies, seconds = [], []
    # Frozen layers make an epoch shorter: the other run gets more time for as many.
    for flags in (tune, []):
        accuracies.append([])
        started = time.monotonic()
        for seed in (1, 2, 3):  # one alone decides nothing: they differ by 2 points
            prefix = tmp_path / f"{len(seconds)}-{seed}"
            settings = ["--seed", seed, "--lr", 0.01, "--num-epochs", 6, "--warmup-epochs", 0]
            data = ["--data-train", train, "--data-val", val, "--model-prefix", prefix, "--keep", 1]
            result = run_script("train_imagenet.py", *base, *flags, *settings, *data, timeout=3600)
            assert result.returncode == 0, result.stderr
            with open(f"{prefix}-log.jsonl") as file:
                last = [event for event in map(json.loads, file) if event["event"] == "epoch"][-1]
            accuracies[-1].append(last["val"]["top-1"])
        seconds.append(time.monotonic() - started)
    print(accuracies, seconds)
    assert seconds[0] < seconds[1]
    assert np.mean(accuracies[0]) > np.mean(accuracies[1])


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
