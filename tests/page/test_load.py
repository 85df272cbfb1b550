"""The page under load: 64 clients for a minute, a real process."""

import collections
import re
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT
from pictures import jpeg
from small_checkpoints import save_lenet

pytest.importorskip("starlette", reason="pip install '.[test]' brings it")

from serving import ask  # noqa: E402

CLIENTS, SECONDS = 64, 60


def resident(process):
    """Megabytes of memory that a process holds."""
    with open(f"/proc/{process.pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1]) / 1024


def load(prefix, epoch, seconds):
    """Answers by status, and the memory that the server holds, 12 times."""
    flags = ["--model-prefix", prefix, "--load-epoch", str(epoch), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "app.py", *flags], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
    picture, answers = jpeg(375, 500), []
    end = time.monotonic() + seconds

    def client(number):
        where = "where" if number % 16 == 0 else "classify"
        while time.monotonic() < end:
            status = ask(port, f"/{where}?side=0&epoch={epoch}", picture)[0]
            answers.append((where, status))
            if status == 503:
                time.sleep(0.1)

    clients = [threading.Thread(target=client, args=(i,)) for i in range(CLIENTS)]
    for thread in clients:
        thread.start()
    memory = []
    while time.monotonic() < end:
        time.sleep(seconds / 12)
        memory.append(resident(process))
    for thread in clients:
        thread.join()
    process.terminate()
    process.wait()
    return collections.Counter(answers), memory


@pytest.mark.slow
def test_64_clients_for_a_minute_are_answered_or_told_busy_and_memory_stays_level(tmp_path):
    save_lenet(str(tmp_path / "x"), ["ant", "bee", "cat"])
    counts, memory = load(str(tmp_path / "x"), 1, SECONDS)
    print(counts, memory)
    assert {status for _, status in counts} == {200, 503}
    assert counts["classify", 200] > SECONDS and counts["where", 200]
    assert memory[-1] < 1.05 * memory[5]
