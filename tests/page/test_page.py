"""The page's server: its answers, and what it refuses."""

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from conftest import ROOT, assert_refused, run_here, run_script
from pictures import BAD, file, photo
from small_checkpoints import save_int8, save_lenet

pytest.importorskip("starlette", reason="pip install '.[test]' brings it")

from serving import ask, serving  # noqa: E402

import app  # noqa: E402
from common.checkpoint import store  # noqa: E402
from common.evaluate.classifier import Classifier  # noqa: E402
from common.page import models as page_models  # noqa: E402
from common.page import server  # noqa: E402
from common.page.card import card  # noqa: E402
from docs.samples import drawings  # noqa: E402

CLASSES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu"]
PICTURE = file(".png", photo(50, 40))
CLASSIFY, WHERE = "/classify?side=0&epoch=1", "/where?side=0&epoch=1"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Prefixes: a network with two checkpoints, and its int8 form."""
    folder = tmp_path_factory.mktemp("page")
    prefix, int8 = str(folder / "x"), str(folder / "int8")
    save_lenet(prefix, CLASSES)
    symbol, *weights = store.load(prefix, 1)
    weights[0]["output_bias"][2] = 9
    store.save(prefix, 2, symbol, *weights)
    save_int8(int8, prefix, CLASSES)
    return SimpleNamespace(prefix=prefix, int8=int8, folder=folder)


@pytest.fixture(scope="module")
def page(made):
    with serving([made.prefix, made.int8], [1, 1]) as (_, port):
        yield port


def pixels(url):
    encoded = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)


def test_a_picture_is_named_as_the_library_names_it(page, made):
    status, _, said = ask(page, CLASSIFY, PICTURE)
    classifier = Classifier(made.prefix, 1)
    names, shares = classifier.predict([PICTURE])
    assert status == 200 and [name for name, _ in said["guesses"]] == names[0]
    assert [share for _, share in said["guesses"]] == pytest.approx(shares[0].tolist(), abs=1e-6)
    crop = classifier.preparation.shown(classifier.prepare(PICTURE))
    assert np.array_equal(pixels(said["crop"])[..., ::-1], crop)
    assert pixels(said["maps"]).ndim == 3 and "6 of 6 maps of 28×28" in said["layer"]


def test_another_checkpoint_and_another_network_answer_otherwise(page):
    first, second, int8 = (
        ask(page, f"/classify?side={side}&epoch={epoch}", PICTURE)[2]
        for side, epoch in ((0, 1), (0, 2), (1, 1))
    )
    assert second["guesses"][0][0] == "cat" and first["guesses"] != second["guesses"]
    assert int8["guesses"] != first["guesses"] and int8["maps"] is None


def test_no_more_networks_are_kept_than_are_shown(made):
    models = page_models.Models([made.prefix], [1])
    for epoch in (1, 2, 1, 2):
        models.submit(models.classify, 0, epoch, PICTURE).result()
        assert list(models._loaded) == [(made.prefix, epoch)]


def test_the_map_comes_in_steps_and_is_of_the_likeliest_class(page):
    _, headers, content = ask(page, WHERE, PICTURE)
    *steps, last = map(json.loads, content.splitlines())
    done = [step["done"] for step in steps]
    assert headers["content-type"] == "application/x-ndjson"
    assert len(done) > 3 and done == sorted(done) and done[-1] == steps[0]["images"]
    assert last["name"] == ask(page, CLASSIFY, PICTURE)[2]["guesses"][0][0]
    assert pixels(last["map"]).shape == (32, 32, 3) and 0 < last["most"] <= 1


def test_one_map_is_computed_at_a_time_and_a_browser_that_leaves_ends_it(page, monkeypatch):
    occlusion, hidden = page_models.occlusion.Occlusion, page_models.occlusion.Occlusion.hidden
    slow = lambda self: (time.sleep(0.01) or part for part in hidden(self))  # noqa: E731
    monkeypatch.setattr(occlusion, "hidden", slow)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", page)) as leaving:
        leaving.request("POST", WHERE, PICTURE, {"Content-Type": "application/octet-stream"})
        leaving.getresponse().readline()
        status, headers, said = ask(page, WHERE, PICTURE)
        assert status == 503 and "another map" in said["error"] and headers["retry-after"] == "1"
        assert ask(page, CLASSIFY, PICTURE)[0] == 200  # pictures are looked at meanwhile
    monkeypatch.undo()
    deadline = time.monotonic() + 10
    while ask(page, WHERE, PICTURE)[0] == 503:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_no_picture_is_refused_in_words(page):
    for content, words in BAD.values():
        status, _, said = ask(page, CLASSIFY, content)
        assert status == 422 and words in said["error"]
        assert not said["error"].startswith("picture")
    huge = file(".png", np.zeros((7100, 7100), np.uint8))  # pixels, in 50 KB
    for address in (CLASSIFY, WHERE):
        status, _, said = ask(page, address, huge)
        assert status == 422 and "pixels" in said["error"]


def test_a_picture_of_too_many_bytes_is_refused(page):
    status, _, said = ask(page, CLASSIFY, bytes(server.MAX_BYTES + 1))
    assert status == 413 and "20 MB" in said["error"]
    parts = (bytes(1 << 20) for _ in range(21))  # without a length
    connection = http.client.HTTPConnection("127.0.0.1", page)
    with contextlib.suppress(ConnectionError):
        connection.request("POST", CLASSIFY, parts, {"Content-Type": "application/octet-stream"})
    assert connection.getresponse().status == 413


def test_a_checkpoint_that_is_not_there_is_refused(page):
    for query in ("side=0&epoch=7", "side=2&epoch=1", "side=-1&epoch=1"):
        assert ask(page, f"/classify?{query}", PICTURE)[0] == 404
    for query in ("", "side=0", "side=0&epoch=../../x", "side=0&epoch=1.5"):
        assert ask(page, f"/classify?{query}", PICTURE)[0] == 400


@pytest.mark.parametrize(
    "address",
    ["/../../../etc/passwd", "/%2e%2e/models.py", "/samples/../server.py", "/samples",
     "//etc/passwd", "/server.py", "/samples/%2e%2e%2f%2e%2e%2fcli.py", "/page.html%00"],
)  # fmt: skip
def test_no_other_file_can_be_read(page, address):
    status, _, said = ask(page, address)
    assert status == 404 and said == {"error": "there is nothing at this address"}


def test_a_foreign_host_name_is_refused(page):
    for name in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1"):
        assert ask(page, "/models", Host=name)[0] == 403
        assert ask(page, CLASSIFY, PICTURE, Host=name)[0] == 403
    for name in (f"localhost:{page}", f"127.0.0.1:{page}", "[::1]:7860", "LOCALHOST"):
        assert ask(page, "/models", Host=name)[0] == 200


def test_what_another_site_sends_is_refused(page):
    own = f"http://127.0.0.1:{page}"
    assert ask(page, CLASSIFY, PICTURE, Origin=own, Sec_Fetch_Site="same-origin")[0] == 200
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "multipart/form-data; boundary=x"},
    ):
        assert ask(page, CLASSIFY, PICTURE, **headers)[0] == 403, headers


def test_every_answer_forbids_what_comes_from_elsewhere(page):
    for path, body in (("/", None), ("/page.js", None), ("/none", None), (CLASSIFY, b"x")):
        _, headers, _ = ask(page, path, body)
        assert headers["content-security-policy"].startswith("default-src 'none'; ")
        assert headers["x-content-type-options"] == "nosniff" and "server" not in headers
    assert "access-control-allow-origin" not in headers
    assert ask(page, "/", Host="x")[1]["content-security-policy"]


def test_the_page_names_no_other_host():
    folder = os.path.dirname(server.__file__)
    for name in ("page.html", "page.css", "page.js"):
        with open(os.path.join(folder, name), encoding="utf-8") as text:
            assert not re.search(r"https?:|[\"'(]//|@import", text.read()), name


def test_a_server_that_is_busy_says_so_and_recovers(made, monkeypatch):
    monkeypatch.setattr(server, "_SECONDS", 1.0)
    with serving([made.prefix], [1]) as (models, port):
        free = threading.Event()
        models.submit(free.wait)
        with ThreadPoolExecutor(20) as clients:
            said = list(clients.map(lambda _: ask(port, CLASSIFY, PICTURE), range(20)))
        assert [status for status, _, _ in said] == [503] * 20
        words = [content["error"] for _, _, content in said]
        assert sum("no answer within 1 s" in word for word in words) == 8
        assert sum("other pictures" in word for word in words) == 12
        free.set()
        assert ask(port, CLASSIFY, PICTURE)[0] == 200


def test_a_picture_that_does_not_arrive_is_not_waited_for(made, monkeypatch):
    monkeypatch.setattr(server, "_SECONDS", 0.3)
    with serving([made.prefix], [1]) as (_, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.putrequest("POST", CLASSIFY)
        connection.putheader("Content-Type", "application/octet-stream")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"slow")
        assert connection.getresponse().status == 408
        connection.close()


@pytest.mark.parametrize("before", [b"", b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_headers_that_do_not_arrive_are_not_waited_for(made, monkeypatch, before):
    monkeypatch.setattr(server, "_SECONDS", 0.5)
    with serving([made.prefix], [1]) as (_, port):
        slow = socket.create_connection(("127.0.0.1", port), timeout=0.1)
        slow.sendall(before + b"POST /classify HTTP/1.1\r\n")
        began, received, part = time.monotonic(), b"", None
        with contextlib.suppress(ConnectionError), slow:
            while part != b"" and time.monotonic() < began + 5:
                slow.sendall(b"X-Slow: 1\r\n")  # a header's line now and then
                with contextlib.suppress(socket.timeout):
                    part = slow.recv(100_000)
                    received += part
        assert time.monotonic() < began + 3
        assert (b"200 OK" in received) == bool(before)


def test_a_map_gets_its_turn_while_pictures_fill_all_places(made):
    with serving([made.prefix], [1]) as (models, port):
        free = threading.Event()
        models.submit(free.wait)
        with ThreadPoolExecutor(20) as clients:
            pictures = [clients.submit(ask, port, CLASSIFY, PICTURE) for _ in range(12)]
            while sum(one.done() for one in pictures) < 4:
                time.sleep(0.01)
            where = clients.submit(ask, port, WHERE, PICTURE)
            time.sleep(0.1)
            free.set()
            assert where.result()[0] == 200


def test_the_samples_are_what_docs_samples_draws(page):
    names = ask(page, "/models")[2]["samples"]
    drawn = {f"samples/{name}.jpg": picture for name, picture in drawings().items()}
    assert names == sorted(drawn)
    for name in names:
        sample = cv2.imdecode(np.frombuffer(ask(page, f"/{name}")[2], np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(np.float32(sample[..., ::-1]) - drawn[name]).mean() < 4  # grey levels


def test_a_card_says_what_the_record_says(made, tmp_path):
    for name in os.listdir(made.folder):
        shutil.copy(made.folder / name, tmp_path)
    prefix = str(tmp_path / "x")
    assert dict(card(prefix, 1)) == {
        "Network": "of another program, 32×32 RGB",
        "Data": "7 classes",
    }
    args = {"dataset": "mnist", "data_train": "a/b.rec", "num_classes": 7, "num_epochs": 3}
    args.update(optimizer="sgd", lr=0.01, batch_size=8, seed=5)
    measured = {"validation": {"images": 200, "right": 150}, "reported": True}
    store.update_record(prefix, 1, args=args, date="2024-05-06 07:08 UTC", **measured)
    said = dict(card(prefix, 1))
    assert said["Data"] == "mnist, b.rec, 7 classes" and said["Date"] == "2024-05-06 07:08 UTC"
    assert said["Accuracy"] == "75.0% top-1 (68.6% to 80.5%) of 200 images"
    assert said["Trained"] == "1 of 3 epochs, sgd, learning rate 0.01, batch 8, seed 5"
    store.update_record(prefix, 1, reported=False)
    assert "Accuracy" not in dict(card(prefix, 1))
    (tmp_path / "x-0001.json").write_text("{")
    assert "x-0001.json" in dict(card(prefix, 1))["Record"]


def test_training_writes_what_the_card_says(finished):
    said = dict(card(str(finished), 2))
    assert said["Network"] == "lenet, 32×32 grey" and said["Trained"].startswith("2 of 2 epochs")
    assert said["Accuracy"].endswith("of 33 images") and said["Date"].endswith("UTC")


def test_mistakes_are_refused_in_one_line(made, tmp_path):
    def start(*flags):
        return run_here(app.main, "--port", 0, *flags)

    given = "--model-prefix", made.prefix, "--load-epoch"
    assert_refused(start(*given, 9), "x-0009.params", "no such checkpoint")
    assert_refused(start(*given, 1, *given, 1, *given, 1), "--model-prefix", "3 times")
    assert_refused(start(*given, 1, "--load-epoch", 2), "--load-epoch")
    assert_refused(start(*given, 1, "--host", "203.0.113.1"), "--host 203.0.113.1")
    assert_refused(start(*given, 1, "--host", "a..b"), "--host a..b", "name")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(start(*given, 1, "--port", port), f"--port {port}", "in use")
    symbol, *weights = store.load(made.prefix, 1)
    weights[0]["output_bias"][:] = np.nan
    store.save(str(tmp_path / "nan"), 1, symbol, *weights)
    shutil.copy(f"{made.prefix}-config.json", tmp_path / "nan-config.json")
    diverged = "--model-prefix", tmp_path / "nan", "--load-epoch", 1
    assert_refused(start(*diverged), "nan-0001.params", "output_bias is not finite")


def test_without_the_extra_it_says_so(made, tmp_path):
    (tmp_path / "starlette.py").write_text("raise ImportError('none')")
    result = run_script("app.py", "--help", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert_refused(result, "pip install '.[page]'")


def test_it_serves_until_ctrl_c(made):
    command = [sys.executable, "app.py", "--model-prefix", made.prefix, "--load-epoch", "1"]
    process = subprocess.Popen(
        [*command, "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    address = re.match(r"http://127\.0\.0\.1:(\d+)/ ", process.stdout.readline())
    assert ask(int(address[1]), CLASSIFY, PICTURE)[0] == 200
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in errors
