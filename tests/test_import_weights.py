"""import_weights.py: Caffe's networks as checkpoints, against OpenCV's reading."""

import re

import bvlc_alexnet
import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import run_script, write_records
from imports import (
    CLASSES,
    SIDE,
    assert_damage_is_refused,
    assert_refused,
    assert_same,
    flags,
    guesses,
    run,
)
from pictures import photo

import import_weights
import symbols
from common import cli
from common.checkpoint import store
from common.checkpoint.config import load_config
from common.convert import alexnet_import, caffe_reader


def test_a_picture_gets_the_probabilities_that_caffe_gives_it(caffe, imported):
    picture = cv2.imread(str(caffe.picture))
    network = cv2.dnn.readNetFromCaffe(str(caffe.prototxt), str(caffe.model))
    network.setInput(cv2.dnn.blobFromImage(picture, mean=(104, 117, 123)))  # B, G, R
    expected = network.forward()[0]
    said = guesses(imported[0], picture)
    assert list(said) == [f"name {i}" for i in np.argsort(-expected)]
    largest = max(abs(said[f"name {i}"] - expected[i]) for i in range(CLASSES))
    print(f"the importer: {imported[1].splitlines()[2]}; a photograph: {largest:.1e}")
    assert largest < 1e-5 and max(expected) > 0.2


def test_the_graph_is_our_own_with_caffes_lrn_and_pooling(imported):
    symbol, arg_params, aux_params = mx.model.load_checkpoint(imported[0], 0)
    ours = symbols.get_symbol("alexnet2012", CLASSES, knorm=1, pooling_convention="full")
    assert symbol.tojson() == ours.tojson()
    assert sorted(arg_params) == sorted(set(ours.list_arguments()) - {"data", "softmax_label"})
    assert aux_params == {}
    store.verify(imported[0], 0)


def test_predict_and_score_take_it_as_any_checkpoint(caffe, imported, tmp_path):
    model = ["--model-prefix", imported[0], "--load-epoch", 0]
    best = next(iter(guesses(imported[0], cv2.imread(str(caffe.picture)))))
    named = run_script("predict.py", *model, caffe.picture)
    assert named.returncode == 0 and named.stdout.split("%  ")[1].startswith(best), named.stderr
    records = write_records(tmp_path / "val", [photo(SIDE, SIDE)], [int(best[-1])])
    scored = run_script("score.py", *model, "--data-val", records)
    assert scored.returncode == 0 and "top-1 100.00%" in scored.stdout, scored.stderr


def test_files_of_2013_give_the_same_weights(caffe, imported, tmp_path):
    text = caffe.prototxt.read_text().replace("layer {", "layers {")
    text = re.sub(r"(?s)layers \{ name: \"data\".*?\} \} \}", 'input: "data"', text)
    sizes = "".join(f"input_dim: {n}\n" for n in (10, 3, SIDE, SIDE))
    for kind in ("Convolution", "ReLU", "LRN", "Pooling", "Inner_Product", "Dropout", "Softmax"):
        text = text.replace(f'"{kind.replace("_", "")}"', kind.upper())
    files = str(tmp_path / "old.prototxt"), str(tmp_path / "old.caffemodel")
    (tmp_path / "old.prototxt").write_text(sizes + text)
    (tmp_path / "old.caffemodel").write_bytes(bvlc_alexnet.caffemodel(caffe.arrays, legacy=True))
    assert_same(imported[0], caffe_reader.read(*files))


def test_caffenet_is_a_network_of_its_own_with_the_probabilities_of_caffe(caffenet):
    model, prefix = caffenet
    symbol, _, _ = store.load(prefix, 0)
    assert symbol.tojson() == symbols.get_symbol("caffenet", CLASSES).tojson()
    assert load_config(prefix)["args"]["network"] == "caffenet"
    picture = cv2.imread(str(model.picture))
    network = cv2.dnn.readNetFromCaffe(str(model.prototxt), str(model.model))
    network.setInput(cv2.dnn.blobFromImage(picture, mean=(104, 117, 123)))
    expected, found = network.forward()[0], guesses(prefix, picture)
    said = [found[f"name {i}"] for i in range(CLASSES)]
    assert np.abs(said - expected).max() < 1e-5 and max(expected) > 0.2


def test_the_file_of_training_gives_the_same_weights(caffe, imported, caffenet, tmp_path):
    for prefix, is_caffenet in ((imported[0], False), (caffenet[1], True)):
        text = bvlc_alexnet.prototxt(CLASSES, SIDE, caffenet=is_caffenet)
        path = tmp_path / "train_val.prototxt"
        path.write_text(bvlc_alexnet.as_train_val(text, SIDE))
        assert_same(prefix, caffe_reader.read(str(caffe.model), str(path)))  # in any order


DIFFERS = r"x\.caffemodel in OpenCV: differs from the checkpoint by .*nothing is written"


@pytest.mark.parametrize(
    "change, words",
    [
        (
            ("num_output: 256 pad: 2", "num_output: 255 pad: 2"),
            "layer conv2: OpenCV cannot make it",
        ),
        (("local_size: 5", "local_size: 3"), "norm1 has nsize 3, not 5"),
        (("alpha: 0.0001", "alpha: 0.000101"), "norm1 has alpha 0.000101, not 0.0001"),
        (("beta: 0.75", "beta: 0.7"), "norm1 has beta 0.7, not 0.75"),
        (("lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }", ""), "norm1 has alpha 1, not"),
        (("local_size: 5", "local_size: 5 k: 2"), "x.prototxt: has an LRN with k 2, not 1"),
        (("local_size: 5", "local_size: 5 norm_region: WITHIN_CHANNEL"), DIFFERS),
        (("pool: MAX", "pool: AVE"), DIFFERS),
        (("pool: MAX", "pool: MAX pad: 1"), "OpenCV cannot run it on images of 3x64x64"),
        (("stride: 4", "stride: 3"), "OpenCV cannot run it"),
        (("num_output: 4096", "num_output: 512"), "layer fc6: OpenCV cannot make it"),
        (("num_output: 4096", "num_output: 4096 bias_term: false"), DIFFERS),
        (("kernel_size: 11", "kernel_size: 11 kernel_size: 9"), "OpenCV cannot run it"),
        (('type: "ReLU"', 'type: "PReLU"'), "layer relu1: OpenCV cannot make it"),
        (('type: "ReLU"', 'type: "TanH"'), "relu1 is TanH where alexnet2012 has Activation"),
        (('type: "Input"', 'type: "Data"'), "layer data: OpenCV cannot make it"),
        (('bottom: "fc6" top: "fc7"', 'bottom: "pool5" top: "fc7"'), "OpenCV cannot run it"),
        (("dim: 64 dim: 64", "dim: 99 dim: 99"), "layer fc6 has weights of 4096x256.*4096x1024"),
        (("dim: 64 dim: 64", "dim: 20 dim: 20"), "images of 3x20x20 are too small"),
        (("dim: 3 dim: 64", "dim: 1 dim: 64"), "conv1 has weights of 96x3x11x11.* 96x1x11x11"),
        (("dim: 64 dim: 64", "dim: 64"), "give deploy.prototxt"),
        (("dim: 64 dim: 64", "dim: 64 dim: 64 }"), "is not a prototxt"),
    ],
)
def test_another_network_is_refused(change, words, caffe, tmp_path, monkeypatch):
    text = caffe.prototxt.read_text()
    assert change[0] in text
    (tmp_path / "x.prototxt").write_text(text.replace(*change, 1))
    assert_refused(monkeypatch, tmp_path, flags(caffe, tmp_path / "x.prototxt"), words)


@pytest.mark.parametrize(
    "change",
    [
        ("kernel_size: 11", "kernel_h: 11 kernel_w: 11"),
        ("local_size: 5", "local_size: 5 k: 1.0"),
        ("pool: MAX", "# pool: AVE\n pool: MAX"),
        ("{ dim: 10 dim: 3", "{ dim: 1, dim: 3;"),
    ],
)
def test_the_same_network_in_other_words_gives_the_same_weights(change, caffe, imported, tmp_path):
    text = caffe.prototxt.read_text()
    assert change[0] in text
    (tmp_path / "x.prototxt").write_text(text.replace(*change, 1))
    assert_same(imported[0], caffe_reader.read(str(tmp_path / "x.prototxt"), str(caffe.model)))


def test_bytes_that_only_comments_hold_do_not_matter(caffe, imported, tmp_path):
    content = (
        caffe.prototxt.read_bytes().replace(b"relu1", b"relu#1").replace(b"# made", b"# caf\xe9")
    )
    (tmp_path / "x.prototxt").write_bytes(b"\xef\xbb\xbf" + content)
    assert_same(imported[0], caffe_reader.read(str(tmp_path / "x.prototxt"), str(caffe.model)))


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_of_caffenet_are_not_taken_for_alexnets(legacy, caffe, tmp_path, monkeypatch):
    path = tmp_path / "x.caffemodel"
    for caffenet, words in (
        (False, None),
        (True, "x.caffemodel: has pool1 where .*deploy.prototxt has norm1"),
    ):
        prototxt = bvlc_alexnet.prototxt(CLASSES, SIDE, caffenet=caffenet)
        names = re.findall(r'name: "(\w+\d|prob)"\s+type', prototxt)
        path.write_bytes(bvlc_alexnet.caffemodel(caffe.arrays, legacy, names))
        if words:
            assert_refused(monkeypatch, tmp_path, flags(caffe, model=path), words)
        else:
            caffe_reader.read(str(caffe.prototxt), str(path))


def test_the_mean_may_be_caffes_file(caffe, tmp_path, monkeypatch):
    mean = np.zeros((3, 5, 4), np.float32) + [[[104]], [[117]], [[123]]]  # B, G, R
    mean[:, 0, 0] += 20  # in each channel, one more on the average
    (tmp_path / "m.binaryproto").write_bytes(bvlc_alexnet.legacy_blob(mean[None]))
    np.save(tmp_path / "m.npy", mean)
    np.save(tmp_path / "three.npy", [105.0, 118, 124])
    for name in ("m.binaryproto", "m.npy", "three.npy"):
        for order, expected in (("BGR", [124, 118, 105]), ("RGB", [105, 118, 124])):
            more = ["--channel-order", order, "--out-prefix", "x", "--mean", tmp_path / name]
            command = ["import_weights.py", *flags(caffe), *more]
            monkeypatch.setattr("sys.argv", list(map(str, command)))
            args = import_weights.parse_args()
            import_weights.resolve(args, "alexnet2012")
            assert args.mean == pytest.approx(expected)
    command = ["import_weights.py", *flags(caffe), "--out-prefix", "x"]
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    args = import_weights.parse_args()
    import_weights.resolve(args, "alexnet2012")
    assert args.mean == [122.679, 116.669, 104.007]  # R, G, B of ilsvrc_2012_mean.npy


def test_alexnet_bn_is_refused_by_its_name(caffe, tmp_path, monkeypatch):
    """Of github.com/HolmesShuan/AlexNet-BN-Caffemodel-on-ImageNet, the first layers."""
    layers = [
        f'layer {{ name: "{n}1" type: "{kind}" bottom: "conv1" top: "conv1" {more} }}\n'
        for n, kind, more in (
            ("bn", "BatchNorm", ""),
            ("scale", "Scale", "scale_param { bias_term: true }"),
        )
    ]
    relu = 'layer {\n  name: "relu1"'
    text = caffe.prototxt.read_text().replace(relu, "".join(layers) + relu)
    ones = np.ones(96, np.float32)
    normalization = {"bn1": [ones, ones, ones[:1]], "scale1": [ones, ones]}
    arrays = {"conv1": caffe.arrays["conv1"], **normalization, **caffe.arrays}  # in order
    (tmp_path / "x.prototxt").write_text(text)
    (tmp_path / "x.caffemodel").write_bytes(bvlc_alexnet.caffemodel(arrays))
    files = [tmp_path / "x.prototxt", tmp_path / "x.caffemodel"]
    words = "x.prototxt: layer bn1 is BatchNorm: .* such as AlexNet-BN"
    assert_refused(monkeypatch, tmp_path, files, words)


def test_networks_with_layers_more_or_less_are_refused(caffe, tmp_path, monkeypatch):
    text = caffe.prototxt.read_text()
    soft = text.index('layer {\n  name: "prob"')
    again = text[soft:].replace('bottom: "fc8"', 'bottom: "prob"').replace('"prob"', '"again"')
    again = again.replace('bottom: "again"', 'bottom: "prob"')
    for changed, words in [
        (
            text[: text.index('layer {\n  name: "fc8"')],
            "the file ends where alexnet2012 has FullyConnected",
        ),
        (text + again, "layer again is Softmax where alexnet2012 ends"),
        (text[: soft - 9], "is not a prototxt, or is cut"),
        ("<html>404 Not Found</html>", "is not a prototxt, or is cut"),
        (
            text.replace("conv1", "conv\udc8d"),
            "is not a prototxt, or is cut",
        ),  # a byte that is no UTF-8
        ("", "give deploy.prototxt"),
    ]:
        (tmp_path / "x.prototxt").write_bytes(changed.encode("utf-8", "surrogateescape"))
        assert_refused(monkeypatch, tmp_path, flags(caffe, tmp_path / "x.prototxt"), words)


def test_weights_that_are_damaged_or_of_another_network_are_refused(caffe, tmp_path, monkeypatch):
    path = tmp_path / "x.caffemodel"
    whole = caffe.model.read_bytes()
    fewer = {**caffe.arrays, "fc8": [a[:7] for a in caffe.arrays["fc8"]]}
    without = {name: arrays for name, arrays in caffe.arrays.items() if name != "fc7"}
    endless = {**caffe.arrays, "fc8": [a * np.float32("nan") for a in caffe.arrays["fc8"]]}
    for content, words in [
        (whole[:-1], "x.caffemodel: OpenCV cannot read it"),
        (whole[: len(whole) // 2], "x.caffemodel: OpenCV cannot read it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "x.caffemodel: OpenCV cannot read it"),
        (b"\x89HDF\r\n\x1a\n", "x.caffemodel: is HDF5"),
        (b"", "x.caffemodel: .*conv1"),
        (bvlc_alexnet.caffemodel(without), "x.caffemodel: layer fc7 has no weight and bias"),
        (bvlc_alexnet.caffemodel(fewer), "layer fc8: .* not of the size that its settings say"),
        (bvlc_alexnet.caffemodel(endless), "x.caffemodel in OpenCV: differs .* by nan"),
    ]:
        path.write_bytes(content)
        assert_refused(monkeypatch, tmp_path, flags(caffe, model=path), words)


def test_what_opencv_computes_otherwise_is_not_written(caffe, tmp_path, monkeypatch):
    def disturbed(source, symbol):
        found = weights(source, symbol)
        found["conv1_weight"] = found["conv1_weight"][:, ::-1]  # B, G, R
        return found

    weights = alexnet_import.weights
    monkeypatch.setattr(alexnet_import, "weights", disturbed)
    assert_refused(monkeypatch, tmp_path, flags(caffe), "differs from the checkpoint by .*e-01")


def test_the_command_line_is_checked(caffe, tmp_path, monkeypatch):
    (tmp_path / "x.onnx").write_bytes(b"\x08")
    (tmp_path / "x.npy").write_bytes(b"")
    np.save(tmp_path / "4.npy", np.ones((4, 5, 5)))  # channels
    for command, words in [
        ([caffe.prototxt], "give one FILE, or Caffe's two"),
        ([caffe.model], "give one FILE, or Caffe's two"),
        ([*flags(caffe), "x.onnx"], "give one FILE, or Caffe's two"),
        ([*flags(caffe), "--mean", "123"], "--mean and --std: take three numbers"),
        ([*flags(caffe), "--std", "1,0,1"], "--std: must be above 0"),
        ([*flags(caffe), "--mean", tmp_path / "x.npy"], "--mean .*x.npy: is no mean.binaryproto"),
        ([*flags(caffe), "--mean", tmp_path / "4.npy"], "--mean .*4.npy: is no mean.binaryproto"),
        (
            [*flags(caffe), "--class-names", "data/imagenet_classes.txt"],
            "1000 names, but the network has 10 classes",
        ),
        ([tmp_path / "x.onnx"], "x.onnx: is damaged, or is no ONNX"),
    ]:
        assert_refused(monkeypatch, tmp_path, command, words)
    for command in (flags(caffe, model="none.caffemodel"), ["none.onnx"]):
        with pytest.raises(FileNotFoundError):
            run(monkeypatch, *command, "--out-prefix", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4.npy", "x.npy", "x.onnx"]


def test_what_is_there_is_lost_only_with_overwrite(caffe, imported, monkeypatch):
    command = [*flags(caffe), "--out-prefix", imported[0], "--resize", 99]
    with pytest.raises(cli.UserError, match="--out-prefix .*--overwrite"):
        run(monkeypatch, *command)
    assert load_config(imported[0])["args"]["resize"] == SIDE


def test_no_file_that_is_imported_is_replaced(tmp_path, monkeypatch):
    source = tmp_path / "g-0000.params"  # as Gluon's export names it
    mx.nd.save(str(source), {"x": mx.nd.ones(2)})
    before = source.read_bytes()
    monkeypatch.setattr(import_weights, "imported", lambda args: made)
    made = import_weights.Imported("alexnet", None, {"fc3_bias": [0]}, (3, 67, 67), (), None)
    command = [source, "--out-prefix", tmp_path / "g", "--overwrite", "--resize"]
    with pytest.raises(cli.UserError, match="--out-prefix .*would replace .*g-0000.params"):
        run(monkeypatch, *command, 67)
    with pytest.raises(cli.UserError, match="--resize 66: is smaller than .* 3,67,67"):
        run(monkeypatch, *command, 66)
    assert source.read_bytes() == before


@pytest.mark.slow
def test_full_size(tmp_path, monkeypatch, capsys):
    (tmp_path / "x.prototxt").write_text(bvlc_alexnet.prototxt(1000, 227))
    arrays = bvlc_alexnet.weights(1000, 9216)
    (tmp_path / "x.caffemodel").write_bytes(bvlc_alexnet.caffemodel(arrays))
    files = flags(None, tmp_path / "x.prototxt", tmp_path / "x.caffemodel")
    run(monkeypatch, *files, "--out-prefix", tmp_path / "out")
    print(capsys.readouterr().out)
    _, weights, _ = store.load(str(tmp_path / "out"), 0)
    assert np.array_equal(weights["fc1_weight"].asnumpy(), arrays["fc6"][0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, telling",
    [
        ("prototxt", rb"\d+"),
        ("caffemodel", rb"(?s)........(conv|fc)\d\x12.{37}"),  # where a layer begins
    ],
)
def test_damage_ends_in_one_line_or_in_a_network_that_opencv_agrees_with(
    kind, telling, caffe, tmp_path, monkeypatch, capfd
):
    path = tmp_path / f"x.{kind}"
    part = {"prototxt": "prototxt", "caffemodel": "model"}[kind]
    content = getattr(caffe, part).read_bytes()
    command = flags(caffe, **{part: path})
    assert_damage_is_refused(path, command, content, telling, monkeypatch, capfd)
