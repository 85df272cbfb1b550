"""data.weights against a real HTTP server that cuts, redirects, crawls and sends other bytes."""

import hashlib
import http.server
import io
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import zipfile

import bvlc_alexnet
import numpy as np
import pytest
from conftest import ROOT, assert_refused, run_here, run_script, write_records

from common.checkpoint.config import load_config
from common.cli import UserError
from data import download, weights

CONTENT = np.random.RandomState(5).bytes(300_000)
REMEDY = "pass --source x.pth"
MOVED = {"/moved/x.pth": "/x.pth", "/loop/x.pth": "/loop/x.pth"}


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``, path -> bytes, with Range; ``starts`` are the first bytes asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.starts = {"/x.pth": CONTENT}, []
        self.cuts = []  # after how many bytes to cut each connection in turn; then no more
        self.resumes, self.pause, self.silence = True, 0, 0  # s after each 10,000 bytes, and last

    def handle_error(self, *_):
        """Say nothing of clients that were killed or gave up."""

    def address(self, name="x.pth"):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path in MOVED:
            self.send_response(302)
            self.send_header("Location", MOVED[self.path])
            self.end_headers()
            return
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        asked = self.headers["Range"] if self.server.resumes else None
        start = int(asked[len("bytes=") : -1]) if asked else 0
        self.server.starts.append(start)
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self._send(content[start:][: self.server.cuts.pop(0) if self.server.cuts else None])

    def _send(self, content):
        for at in range(0, len(content), 10_000):
            self.wfile.write(content[at : at + 10_000])
            time.sleep(self.server.pause)
        time.sleep(self.server.silence)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def described(address, content=CONTENT, **more):
    return download.File(address, f"sha256:{hashlib.sha256(content).hexdigest()}", **more)


def assert_here(root, content=CONTENT):
    """The file is there, and nothing else."""
    assert {path.name: path.read_bytes() for path in root.iterdir()} == {"x.pth": content}


def refused(file, root):
    with pytest.raises(UserError) as refusal:
        download.get(file, str(root), REMEDY)
    assert "\n" not in str(refusal.value)
    assert file.address in str(refusal.value) and REMEDY in str(refusal.value)
    return str(refusal.value)


def test_a_file_is_downloaded_once_and_again_when_it_is_damaged(server, tmp_path):
    file = described(server.address())
    for _ in range(2):
        assert download.get(file, str(tmp_path), REMEDY) == str(tmp_path / "x.pth")
    assert_here(tmp_path)
    assert server.starts == [0]
    os.truncate(tmp_path / "x.pth", 1000)
    download.get(file, str(tmp_path), REMEDY)
    assert_here(tmp_path)


def test_a_cut_connection_is_made_again_where_it_was_cut(server, tmp_path):
    server.cuts = [120_000, 50_000]
    download.get(described(server.address()), str(tmp_path), REMEDY)
    assert server.starts == [0, 120_000, 170_000]
    assert_here(tmp_path)


def test_a_terminal_has_a_bar_that_goes_on_where_the_cut_was(server, tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    server.cuts = [120_000]
    download.get(described(server.address()), str(tmp_path), REMEDY)
    bars = [bar for bar in terminal.getvalue().split("\r") if bar.strip()]
    assert bars[0].startswith("x.pth:   0%") and any("120k/300k" in bar for bar in bars)


def test_what_came_before_the_line_went_dead_is_kept_for_the_next_run(server, tmp_path):
    server.cuts = [120_000, 0]
    assert "cut after 120,000 of 300,000 bytes" in refused(described(server.address()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth.part"]
    download.get(described(server.address()), str(tmp_path), REMEDY)
    assert server.starts == [0, 120_000, 120_000]
    assert_here(tmp_path)


def test_a_server_that_does_not_resume_sends_the_file_again(server, tmp_path):
    server.resumes, server.cuts = False, [120_000]
    download.get(described(server.address()), str(tmp_path), REMEDY)
    assert server.starts == [0, 0]
    assert_here(tmp_path)


def test_a_redirect_keeps_the_place(server, tmp_path):
    server.cuts = [120_000]
    download.get(described(server.address("moved/x.pth")), str(tmp_path), REMEDY)
    assert server.starts == [0, 120_000]
    assert_here(tmp_path)


@pytest.mark.parametrize("served", [CONTENT[::-1], b"<html>log in", CONTENT + b"more"])
def test_wrong_bytes_are_never_used_and_the_next_run_begins_anew(served, server, tmp_path):
    server.files["/x.pth"] = served
    assert "is not x.pth" in refused(described(server.address(), size=len(CONTENT)), tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.files["/x.pth"] = CONTENT
    download.get(described(server.address()), str(tmp_path), REMEDY)
    assert_here(tmp_path)


def test_a_download_that_was_whole_but_unnamed_is_not_repeated(server, tmp_path):
    (tmp_path / "x.pth.part").write_bytes(CONTENT)
    download.get(described(server.address()), str(tmp_path), REMEDY)
    assert server.starts == [len(CONTENT)]
    assert_here(tmp_path)


@pytest.mark.parametrize("name, status", [("gone/x.pth", 404), ("loop/x.pth", 302)])
def test_an_address_without_the_file_is_a_line_and_leaves_nothing(name, status, server, tmp_path):
    said = refused(described(server.address(name)), tmp_path / "root")
    assert f"HTTP status {status}" in said
    assert not (tmp_path / "root").exists()


def test_a_server_that_says_nothing_counts_as_cut(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_SILENCE", 0.2)
    server.cuts, server.silence = [120_000, 0], 5
    start = time.monotonic()
    assert "cut after 120,000 of 300,000 bytes" in refused(described(server.address()), tmp_path)
    assert time.monotonic() - start < 4


def test_a_full_disk_is_a_line(server, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match="x.pth.part: cannot be written: .*; make room"):
            download.get(described(server.address()), str(tmp_path), REMEDY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def zipped(name, content):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr(name, content)
    return archive.getvalue()


@pytest.mark.parametrize("hand", [False, True])
def test_of_an_archive_the_member_is_checked_and_kept(hand, server, tmp_path):
    good = zipped("x.pth", CONTENT)
    bad = [zipped("x.pth", CONTENT[1:]), zipped("y", b""), good[:-1], b"<html>"]
    file = described(server.address("x.zip"), member="x.pth")
    source = tmp_path / "source.zip"
    for content in (*bad, good):
        server.files["/x.zip"] = content
        source.write_bytes(content)
        command = (file, str(tmp_path / "root"), REMEDY, str(source) if hand else None)
        if content is not good:
            with pytest.raises(UserError, match="x.pth"):
                download.get(*command)
            assert not (tmp_path / "root").exists()
    assert download.get(*command) == str(tmp_path / "root/x.pth")
    assert_here(tmp_path / "root")


def test_killed_on_a_slow_line_and_run_again_it_goes_on(server, tmp_path):
    server.pause = 0.05
    part = tmp_path / "x.pth.part"
    file = described(server.address())
    code = f"from data.download import File, get; get({file!r}, {str(tmp_path)!r}, '')"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not part.exists() or part.stat().st_size < 50_000:
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "x.pth").exists()
    kept = part.stat().st_size
    server.pause = 0
    download.get(file, str(tmp_path), REMEDY)
    assert server.starts == [0, kept]
    assert_here(tmp_path)


def run(known, *flags):
    return run_here(lambda: weights.main(list(map(str, flags)), known))


def toy(*files):
    return {"toy": weights.Weights(files, "free", "1% / 2%")}


def test_a_download_becomes_a_checkpoint_with_imagenets_classes_and_is_scored(
    server, tmp_path, capfd
):
    arrays = bvlc_alexnet.weights(1000, 256)  # for images of 64x64
    server.files = {
        "/x.caffemodel": bvlc_alexnet.caffemodel(arrays),
        "/deploy.prototxt": bvlc_alexnet.prototxt(1000, 64).encode(),
    }
    server.cuts = [1_000_000]
    files = [described(server.address(n[1:]), content) for n, content in server.files.items()]
    known = toy(*files)
    root, prefix = tmp_path / "root", tmp_path / "made" / "toy"
    command = "toy", "--root", root, "--out-prefix", prefix
    made = run(known, *command)
    assert made.returncode == 0 and made.stderr == "", made.stderr
    assert sorted(path.name for path in root.iterdir()) == ["deploy.prototxt", "x.caffemodel"]
    names = load_config(str(prefix))["classes"]
    assert (names[0], names[999]) == ("tench", "toilet tissue")

    before = len(server.starts)
    assert_refused(run(known, *command), "toy-0000.params exists", "--overwrite")
    records = write_records(tmp_path / "val", [np.zeros((64, 64, 3), np.uint8)], [0])
    scored = run(known, *command, "--check", records)
    assert scored.returncode == 0 and scored.stdout == "published: top-1 / top-5 1% / 2%\n"
    assert "top-1 " in capfd.readouterr().out
    assert len(server.starts) == before


def test_what_import_weights_refuses_is_its_line_and_its_exit_code(tmp_path, capfd):
    source, prefix = tmp_path / "x.pth", tmp_path / "new" / "toy"
    source.write_bytes(CONTENT)
    known = toy(described("http://nowhere.invalid/x.pth"))
    result = run(known, "toy", "--source", source, "--out-prefix", prefix)
    line = capfd.readouterr().err
    assert result.returncode == 2 and result.stderr == ""
    assert line.startswith(f"import_weights.py: error: {source}: ") and line.count("\n") == 1
    assert not prefix.parent.exists()


def test_another_file_at_hand_is_refused(tmp_path):
    source = tmp_path / "x.pth"
    source.write_bytes(CONTENT[1:])
    result = run(toy(described("http://nowhere.invalid/x.pth")), "toy", "--source", source)
    assert_refused(result, f"{source}: is not x.pth", "http://nowhere.invalid/x.pth")
    result = run(toy(described("http://nowhere.invalid/x.pth")), "toy", "--source", "none.pth")
    assert_refused(result, "none.pth: No such file")


def test_without_a_network_the_line_has_the_address_and_source(tmp_path):
    with Server() as closed:
        address = closed.address()
    command = ("toy", "--root", tmp_path / "root", "--out-prefix", tmp_path / "toy")
    result = run(toy(described(address)), *command)
    assert_refused(result, address, "Connection refused", "--source x.pth")
    assert list(tmp_path.iterdir()) == []


def test_the_list_names_every_file_with_its_licence_and_accuracy():
    listed = run_script("-m", "data.weights")
    assert listed.returncode == 0 and listed.stderr == ""
    for name, one in weights.KNOWN.items():
        for word in (name, one.licence, one.accuracy, *(file.address for file in one.files)):
            assert word in listed.stdout
        for file in one.files:
            algorithm, _, expected = file.checksum.partition(":")
            assert len(expected) == 2 * hashlib.new(algorithm).digest_size


def test_flags_that_do_not_fit_are_refused():
    assert_refused(run(weights.KNOWN, "--source", "x.pth"), "the name of the weights first")
    assert_refused(run(weights.KNOWN, "gluon", "--check", "no.rec"), "no.rec: no such file")
    result = run(weights.KNOWN, "bvlc_alexnet", "--source", "x.caffemodel")
    assert_refused(result, "in this order: bvlc_alexnet.caffemodel deploy.prototxt")
