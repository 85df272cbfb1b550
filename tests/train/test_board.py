"""--tensorboard: the event files, read back as TensorBoard reads them."""

import struct
import sys

import cv2
import numpy as np
import pytest
from conftest import assert_refused, before_batch, contents, logged, terminate, train

from common.draw import tiles
from common.input.preparation import Preparation, images_at
from common.records.scan import scan_records

pytest.importorskip("tensorboardX", reason="pip install '.[test]' brings it")

from tensorboardX import event_file_writer  # noqa: E402
from tensorboardX.proto.event_pb2 import Event, SessionLog  # noqa: E402
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData  # noqa: E402


def events(path):
    """The events of a file: length, its checksum, content, its checksum each."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield Event.FromString(content[at + 12 : at + 12 + length])
        at += 16 + length


def shown(folder):
    """tag -> [(step, value)]; as in TensorBoard, a start hides what came before at its step on."""
    values = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in events(path):
            if event.session_log.status == SessionLog.START:
                for tag in values:
                    values[tag] = [pair for pair in values[tag] if pair[0] < event.step]
            for value in event.summary.value:
                values.setdefault(value.tag, []).append((event.step, value))
    return {tag: pairs for tag, pairs in values.items() if pairs}


def curves(folder):
    """tag -> [(step, number)] of what does not depend on time."""
    return {
        tag: [(step, value.simple_value) for step, value in pairs]
        for tag, pairs in shown(folder).items()
        if pairs[0][1].HasField("simple_value") and tag != "img/s"
    }


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """The folder of a run of two epochs of seven and six batches that was never stopped."""
    folder = tmp_path_factory.mktemp("board")
    result = train(*flags, "--model-prefix", folder / "x", "--tensorboard", folder / "events")
    assert result.returncode == 0, result.stderr
    return folder


def test_curves_say_what_the_log_says(whole):
    found = curves(whole / "events")
    epochs = [line for line in logged(whole / "x") if line["event"] == "epoch"]
    for name in ("loss", "top-1"):
        said = [line["val"][name] for line in epochs]
        assert found[f"{name}/val"] == [(7, pytest.approx(said[0])), (13, pytest.approx(said[1]))]
        steps, values = zip(*found[f"{name}/train"])
        assert steps == tuple(range(1, 14))
        assert np.mean(values[:7]) == pytest.approx(epochs[0]["train"][name], rel=1e-5)
    assert len(found["learning_rate"]) == 13 and found["learning_rate"][0][1] > 0
    speeds = [value.simple_value for _, value in shown(whole / "events")["img/s"]]
    assert len(speeds) == 13 and min(speeds) > 0


def test_each_epoch_has_histograms_of_all_weights_and_gradients(whole):
    found = shown(whole / "events")
    for kind in ("weights", "gradients"):
        for name, size in (("c1_weight", 150), ("f6_bias", 84)):
            pairs = found[f"{kind}/{name}"]
            assert [step for step, _ in pairs] == [7, 13]
            assert [sum(value.histo.bucket) for _, value in pairs] == [size, size]
    assert found["gradients/c1_weight"][0][1].histo.max > 0


def pixels(value):
    """A picture's (H, W, 3), which have to be of the size that the event says."""
    encoded = np.frombuffer(value.image.encoded_image_string, np.uint8)
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded.shape == (value.image.height, value.image.width, 3)
    return decoded


def test_each_epoch_has_a_picture_of_the_kernels(whole):
    (_, first), (_, second) = shown(whole / "events")["kernels"]
    assert pixels(first).shape[0] > 20 and not np.array_equal(pixels(first), pixels(second))


def test_arguments_are_hyper_parameters(whole):
    (_, value), *_ = shown(whole / "events")["_hparams_/session_start_info"]
    said = HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info
    assert said.hparams["batch_size"].number_value == 16
    assert said.hparams["network"].string_value == "lenet"
    assert said.hparams["deterministic"].bool_value


@pytest.mark.parametrize("batch", [3, 10])
def test_a_resumed_run_goes_on_in_the_same_curves(whole, flags, tmp_path, batch):
    flags = [*flags, "--model-prefix", tmp_path / "x", "--tensorboard", tmp_path / "events"]
    with before_batch(batch, terminate):
        assert train(*flags).returncode == 143
    assert train(*flags, "--resume").returncode == 0
    assert len(list((tmp_path / "events").iterdir())) == 2
    assert curves(tmp_path / "events") == curves(whole / "events")


def test_after_a_crash_what_is_trained_again_replaces_what_was_shown(whole, flags, tmp_path):
    flags = [*flags, "--model-prefix", tmp_path / "x", "--tensorboard", tmp_path / "events"]
    with before_batch(10, lambda: sys.exit(9)):
        assert train(*flags).returncode == 9
    assert curves(tmp_path / "events")["loss/train"][-1][0] == 10  # three more than were saved
    assert train(*flags, "--resume").returncode == 0
    assert curves(tmp_path / "events") == curves(whole / "events")


def test_mistakes_are_shown_with_their_class_and_what_they_were_taken_for(
    small, flags, tmp_path, monkeypatch
):
    seen, captioned = [], tiles.captioned
    monkeypatch.setattr(
        tiles, "captioned", lambda tile, lines: seen.append((tile, lines)) or captioned(tile, lines)
    )
    result = train(*flags, "--num-epochs", 1, "--lr", 1e-6, "--tensorboard", tmp_path)
    assert result.returncode == 0, result.stderr
    records = scan_records(small.val)
    plain = Preparation((1, 32, 32), None, (0,), (1,))
    images = list(images_at(records, np.arange(len(records)), plain))
    assert 0 < len(seen) <= 12 and pixels(shown(tmp_path)["mistakes"][0][1]).shape[1] > 256
    for tile, (label, guess) in seen:
        near = [np.abs(np.float32(tile[..., 0]) - image[0]).max() for image in images]
        assert min(near) <= 1
        assert (
            records.labels[int(np.argmin(near))]
            == int(label.split(",")[0])
            != int(guess.split()[0])
        )


def test_what_cannot_be_written_ends_no_run(flags, tmp_path, monkeypatch):
    def full(_writer):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(event_file_writer.EventsWriter, "flush", full)
    result = train(*flags, "--num-epochs", 1, "--tensorboard", tmp_path / "events")
    assert result.returncode == 0
    assert result.stderr.count("--tensorboard: No space left on device") == 1


def test_mistakes_in_the_flag_are_refused_before_anything_is_written(
    whole, flags, tmp_path, monkeypatch
):
    prefix = "--model-prefix", tmp_path / "x"
    (tmp_path / "file").write_text("")
    before = contents(tmp_path)
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert_refused(
            train(*flags, *prefix, "--tensorboard", folder), "--tensorboard", "no folder"
        )
    again = train(*flags, *prefix, "--tensorboard", whole / "events")
    assert_refused(again, "--tensorboard", "earlier run", "--overwrite")
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    missing = train(*flags, *prefix, "--tensorboard", tmp_path / "events")
    assert_refused(missing, "--tensorboard", "pip install '.[tensorboard]'")
    assert contents(tmp_path) == before
