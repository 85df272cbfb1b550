"""One Classifier for several threads and processes, and for all forms of pictures."""

import io
import pathlib
import pickle
import threading

import cv2
import mxnet as mx
import numpy as np
import pytest
from conftest import run_script
from pictures import file, jpeg, photo, with_exif
from PIL import Image
from small_checkpoints import save_int8, save_lenet

from common.cli import UserError
from common.evaluate.classifier import Classifier
from common.runtime import native

CLASSES = list("abcdefg")
PICTURES = [photo(40 + i, 60, i) for i in range(16)]


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory):
    """The checkpoints of LeNet: 'float32', 'int8' and, for grey pictures, 'grey'."""
    folder = tmp_path_factory.mktemp("networks")
    names = {name: str(folder / name) for name in ("float32", "int8", "grey")}
    save_lenet(names["float32"], CLASSES)
    save_int8(names["int8"], names["float32"], CLASSES)
    save_lenet(names["grey"], CLASSES, channels=1)
    return names


@pytest.fixture(scope="module")
def classifier(prefixes):
    return Classifier(prefixes["float32"], 1, batch_size=4)


def first(answers):
    """The probabilities of the first picture."""
    return answers[1][0]


@pytest.mark.parametrize("state", ["cold", "warm"])
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_eight_threads_get_their_own_answers(prefixes, kind, state):
    """Together 4 x 2,000 answers, for requests of 1 to 5 pictures in batches of 4."""
    alone = Classifier(prefixes[kind], 1, batch_size=4)
    expected = [first(alone.predict([picture], top=7)) for picture in PICTURES]
    assert min(np.abs(a - b).max() for i, a in enumerate(expected) for b in expected[:i]) > 1e-3
    shared = alone if state == "warm" else Classifier(prefixes[kind], 1, batch_size=4)
    start, wrong, answered = threading.Barrier(8), [], []

    def ask(thread):
        start.wait()
        rng = np.random.RandomState(thread)
        while sum(answered) < 2000:
            chosen = rng.randint(16, size=rng.randint(1, 6))
            try:
                said = shared.predict([PICTURES[i] for i in chosen], top=7)[1]
                wrong.extend(
                    i for i, row in zip(chosen, said) if np.abs(row - expected[i]).max() > 1e-4
                )
            except Exception as error:
                wrong.append(error)
            answered.append(len(chosen))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and sum(answered) >= 2000


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_a_used_classifier_is_pickled(prefixes, kind):
    classifier = Classifier(prefixes[kind], 1, batch_size=4)
    expected = classifier.predict(PICTURES)
    copy = pickle.loads(pickle.dumps(classifier))
    assert copy.predict(PICTURES)[0] == expected[0]
    assert np.array_equal(copy.predict(PICTURES)[1], expected[1])
    assert np.array_equal(classifier.predict(PICTURES)[1], expected[1])


IN_A_PROCESS = """
import multiprocessing, sys
import numpy as np
from common.evaluate.classifier import Classifier

PICTURES = list(np.random.RandomState(0).randint(0, 256, (6, 50, 60, 3)).astype(np.uint8))

def answer(classifier, queue):
    queue.put([classifier.predict(PICTURES[:n])[1].tolist() for n in (1, 6)])

if __name__ == "__main__":
    classifier = Classifier(sys.argv[2], 1, batch_size=4)
    expected = [classifier.predict(PICTURES[:n])[1] for n in (1, 6)]
    context = multiprocessing.get_context(sys.argv[1])
    queue = context.Queue()
    process = context.Process(target=answer, args=(classifier, queue), daemon=True)
    process.start()
    for said, own in zip(queue.get(timeout=90), expected):
        assert np.allclose(said, own, atol=1e-6)
"""


def test_few_pictures_run_one_by_one(prefixes):
    classifier = Classifier(prefixes["float32"], 1, batch_size=16)
    _, probabilities = classifier.predict(PICTURES, top=7)
    for few in (1, 2):
        _, alone = classifier.predict(PICTURES[:few], top=7)
        assert np.abs(alone - probabilities[:few]).max() < 1e-6
    assert {size for size, _ in classifier._modules} == {1, 16}
    classifier.predict(PICTURES[:3])
    assert len(classifier._modules) == 2


@pytest.mark.skipif(not native.load(), reason="no C++ compiler")
def test_bfloat16_is_kept_in_a_pickled_classifier(prefixes):
    narrow = Classifier(prefixes["float32"], 1, batch_size=4, dtype="bfloat16")
    both = narrow, pickle.loads(pickle.dumps(narrow))
    said = [one.predict(PICTURES[:3], top=7)[1] for one in both]
    plain = Classifier(prefixes["float32"], 1, batch_size=4).predict(PICTURES[:3], top=7)[1]
    assert np.array_equal(*said) and 1e-6 < np.abs(said[0] - plain).max() < 0.01


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_another_process_gets_the_same_answers(prefixes, tmp_path, method):
    """In a script, since a process that is spawned imports the main module anew."""
    script = tmp_path / "script.py"
    script.write_text(IN_A_PROCESS)
    result = run_script(script, method, prefixes["float32"], timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("ahead", [0, 4])
def test_a_stream_reads_what_one_batch_needs_and_of_a_list_one_more(classifier, ahead):
    read = []

    def camera():
        for i in range(100):
            read.append(i)
            yield PICTURES[i % 16]

    class Listed(list):
        def __iter__(self):
            return camera()

    stream = classifier.stream(Listed() if ahead else camera())
    assert read == []
    for answered in range(1, 10):
        next(stream)
        assert len(read) == -(-answered // 4) * 4 + ahead


@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_a_camera_may_reuse_one_array(prefixes, batch_size, channels):
    classifier = Classifier(prefixes["float32"], 1, batch_size)
    shape = (50, 60) if channels is None else (50, 60, channels)
    frames = np.random.RandomState(0).randint(0, 256, (48, *shape)).astype(np.uint8)
    buffer = np.empty(shape, np.uint8)

    def camera():
        for frame in frames:
            buffer[:] = frame
            yield buffer
        buffer[:] = 0

    expected = Classifier(prefixes["float32"], 1, batch_size).predict(list(frames))
    said = list(classifier.stream(camera()))
    assert [[guess.name for guess in guesses] for guesses in said] == expected[0]
    assert np.array_equal([[g.probability for g in guesses] for guesses in said], expected[1])


def forms(tmp_path):
    """The same picture in every form that stands for it, by name; PNG, so that none loses any."""
    picture = PICTURES[3]
    content = file(".png", picture)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    rgb = picture[..., ::-1]
    return {
        "str": str(path),
        "pathlib": path,
        "bytes path": FSPath(str(path).encode()),
        "bytes": content,
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "BytesIO": io.BytesIO(content),
        "file": open(path, "rb"),  # noqa: SIM115
        "array": picture,
        "strided": np.repeat(picture, 2, axis=1)[:, ::2],
        "read-only": np.frombuffer(picture.tobytes(), np.uint8).reshape(picture.shape),
        "opaque": np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)]),
        "PIL": Image.fromarray(rgb),
        "PIL file": Image.open(path),
        "PIL RGBA": Image.fromarray(rgb).convert("RGBA"),
    }


class FSPath:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


def test_every_form_of_a_picture_gets_the_same_answer(classifier, tmp_path):
    expected = first(classifier.predict([PICTURES[3]], top=7))
    for name, form in forms(tmp_path).items():
        said = first(classifier.predict([form], top=7))
        assert np.array_equal(said, expected), name
    turned = first(classifier.predict([PICTURES[3][..., ::-1]], top=7, rgb=True))
    assert np.array_equal(turned, expected)
    together = classifier.predict(list(forms(tmp_path).values()), top=7)[1]
    assert np.allclose(together, expected, atol=1e-6)
    assert len(classifier.predict(np.stack(PICTURES[:1] * 3))[0]) == 3


@pytest.mark.parametrize("kind", ["float32", "grey"])
def test_grey_transparent_and_palette_pictures(prefixes, kind):
    classifier = Classifier(prefixes[kind], 1)
    grey = cv2.cvtColor(PICTURES[3], cv2.COLOR_BGR2GRAY)
    of_grey = first(classifier.predict([grey], top=7))
    alike = [grey[..., None], Image.fromarray(grey), file(".png", grey), cv2.merge([grey] * 3)]
    for form in alike:
        assert np.allclose(first(classifier.predict([form], top=7)), of_grey, atol=1e-6)

    drawing = np.zeros((40, 60, 4), np.uint8)
    drawing[10:30, 20:30, 3] = 255
    seen = first(classifier.predict([255 - drawing[..., [3, 3, 3]]], top=7))
    palette = Image.fromarray(np.uint8(drawing[..., 3] > 0))
    palette.putpalette([9, 9, 9, 0, 0, 0])
    palette.info["transparency"] = 0
    for form in (drawing, file(".png", drawing), Image.fromarray(drawing), palette):
        assert np.allclose(first(classifier.predict([form], top=7)), seen, atol=1e-6)


def test_a_pil_image_is_turned_upright_as_its_file_is(classifier):
    content = with_exif(jpeg(40, 64), 6)
    turned = Image.open(io.BytesIO(content))
    assert np.abs(
        first(classifier.predict([content])) - first(classifier.predict([turned]))
    ).max() == pytest.approx(0, abs=1e-4)


UINT8 = "give uint8, 0 to 255, (height, width) or (height, width, 1, 3 or 4 channels)"
WRONG = {
    "0 to 1": (PICTURES[0] / np.float32(255), "an array of float32 and shape (40, 60, 3), values"),
    "uint16": (PICTURES[0].astype(np.uint16) * 257, "an array of uint16 and shape (40, 60, 3)"),
    "bool": (PICTURES[0] > 99, "an array of bool and shape (40, 60, 3), values 0 to 1; " + UINT8),
    "text": (np.array([["a"]]), "an array of <U1 and shape (1, 1)"),
    "CHW": (PICTURES[0].transpose(2, 0, 1), "channels first: transpose(1, 2, 0) puts them last"),
    "NHWC": (PICTURES[0][None], "shape (1, 40, 60, 3), values"),
    "flat": (PICTURES[0].ravel(), "and shape (7200,)"),
    "empty": (np.zeros((0, 9, 3), np.uint8), "an array of uint8 and shape (0, 9, 3); " + UINT8),
    "None": (None, "is a NoneType; cv2.imread returns None for a file that it cannot read"),
    "number": (7, "is a int; give a path"),
    "mx.nd": (mx.nd.array(PICTURES[0]), "is a mxnet.ndarray.ndarray.NDArray; give a path"),
    "text file": (io.StringIO("text"), "its read() gives str; open the file in binary mode"),
    "PIL I": (Image.new("I", (9, 9)), "an array of int32 and shape (9, 9)"),
    "PIL cut": (Image.open(io.BytesIO(file(".png", PICTURES[0])[:600])), "cannot be read: "),
    "bytes": (b"text", "is not a picture that OpenCV"),
    "empty bytes": (b"", "is empty"),
    "damaged": (
        jpeg(300, 400)[:-700] + b"\xff\xd9",
        "is damaged (Corrupt JPEG data: premature end",
    ),
    "no such": (pathlib.Path("no such.jpg"), "No such file or directory"),
    "null": ("a\0b", "null"),
    "folder": (pathlib.Path("/"), "/: Is a directory"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_picture_is_one_line_and_the_stream_goes_on(classifier, name):
    wrong, words = WRONG[name]
    answers = list(classifier.stream([PICTURES[0], wrong, PICTURES[1]]))
    assert isinstance(answers[1], UserError)
    message = str(answers[1])
    assert words in message and len(message.splitlines()) == 1 and len(message) < 250
    if not isinstance(wrong, (str, pathlib.Path)):
        assert message.startswith("picture 1: ")
    expected = classifier.predict([PICTURES[0], PICTURES[1]])[0]
    assert [[g.name for g in a] for a in (answers[0], answers[2])] == expected
    with pytest.raises(UserError):
        classifier.predict([wrong])


@pytest.mark.parametrize("failure", [MemoryError(), cv2.error("Insufficient memory")])
def test_a_picture_that_memory_has_no_room_for_is_one_line(classifier, monkeypatch, failure):
    resize = cv2.resize

    def resized(image, *args, **kwargs):
        if image.shape[0] == 77:
            failure.err = "Insufficient memory"
            raise failure
        return resize(image, *args, **kwargs)

    monkeypatch.setattr(cv2, "resize", resized)
    answers = list(classifier.stream([PICTURES[0], photo(77, 77), PICTURES[1]]))
    assert str(answers[1]).startswith("picture 1: ") and "memory" in str(answers[1])
    assert isinstance(answers[0], list) and isinstance(answers[2], list)


@pytest.mark.parametrize(
    "pictures", ["cat.jpg", pathlib.Path("cat.jpg"), b"text", PICTURES[0], io.BytesIO(b"x"), 7]
)
def test_one_picture_is_no_list(classifier, pictures):
    with pytest.raises(UserError, match="pictures: is one .*; give a list of pictures"):
        classifier.stream(pictures)
    with pytest.raises(UserError, match="pictures: is one .*; give a list of pictures"):
        classifier.stream(Image.fromarray(PICTURES[0]))


@pytest.mark.parametrize("top", [0, -1])
def test_no_guesses_are_refused(classifier, top):
    for ask in (classifier.predict, classifier.stream):
        with pytest.raises(UserError, match=f"top {top}: has to be at least 1"):
            ask([PICTURES[0]], top)


def test_the_limit_on_pixels_holds_for_files_and_pil_images(prefixes):
    classifier = Classifier(prefixes["float32"], 1, max_pixels=1000)
    forms = [file(".png", photo(40, 26)), Image.fromarray(photo(40, 26)), photo(40, 26)]
    *refused, array = classifier.stream(forms)
    for error in refused:
        assert "has 26x40 pixels, more than 1000" in str(error)
    assert isinstance(array, list)  # it is decoded already


def test_a_narrow_array_is_cut_before_it_is_enlarged(classifier):
    narrow = photo(65535, 1)
    names, _ = classifier.predict([narrow, narrow[32700:32835]])
    assert names[0] == names[1]
