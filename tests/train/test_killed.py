"""Runs that are killed: each goes on and ends as if nothing had been."""

import collections
import filecmp
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time

import mxnet as mx
import pytest
from conftest import ROOT, bands, write_records

import train_imagenet
from common.checkpoint import store
from common.cli import UserError

KILLS = 200
EPOCHS = 3
# Dropout, crops, mirrors and lighting; a save every few batches of about 0.15 s.
FLAGS = f"""--network alexnet --dataset cifar10 --image-shape 3,67,67 --resize 70 --batch-size 16
    --random-crop 1 --random-mirror 1 --pca-noise 0.1 --lr 0.01 --num-epochs {EPOCHS} --keep 2
    --deterministic --save-minutes 0.02 --disp-batches 1 --resume""".split()


def figures(prefix):
    """Epoch -> its figures in the log; if it is there again, they are the same."""
    found = {}
    with open(f"{prefix}-log.jsonl") as file:
        for line in map(json.loads, file):
            if line["event"] == "epoch":
                said = line["train"], line["val"]
                assert found.setdefault(line["epoch"], said) == said
    return found


class Killed(Exception):
    """The process was still at work when its time was over."""


class Training:
    """A training run in ``folder`` that takes as many lives as it needs."""

    def __init__(self, folder, records):
        self.folder, self.prefix = str(folder), str(folder / "x")
        self.done = 0  # batches in the furthest checkpoint
        self.phases = []  # in which it was killed
        self.fruitless = 0  # lives since it last got further
        self._records, self._verified = records, set()
        folder.mkdir()

    def live(self, seconds=300):
        """Let a process train to the end, or kill it after ``seconds``.

        Raises:
            Killed: it was not at its end.
        """
        earlier = self._read("-log.jsonl")
        data = ["--data-train", self._records, "--data-val", self._records]
        with open(f"{self.prefix}.out", "w+") as out:
            process = subprocess.Popen(
                [sys.executable, "train_imagenet.py", *FLAGS, *data, "--model-prefix", self.prefix],
                cwd=ROOT,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            out.seek(0)
            said = out.read()
        assert process.returncode in (0, -9), said
        if process.returncode:
            self.phases.append(self._phase(process.pid, earlier))
            raise Killed

    def _read(self, ending):
        path = self.prefix + ending
        if not os.path.exists(path):
            return ""
        with open(path) as file:
            return file.read()

    def _phase(self, pid, earlier):
        """What the process was at when it died; ``earlier`` is the log before its time."""
        if any(f".tmp{pid}-" in name for name in os.listdir(self.folder)):
            return "saving"
        if f"process {pid} " not in self._read(".lock"):
            return "starting"
        log = self._read("-log.jsonl")
        own = log[len(earlier) :] if log.startswith(earlier) else log
        if '"event": "batch"' not in own:
            return "opening the checkpoint"
        batches, prefix, number = max(self._checkpoints(), default=(-1, "", 0))
        if batches < 0 or prefix != self.prefix:
            return "training"
        reported = store.load_record(prefix, number)["reported"]
        return "training" if reported else "validating"

    def _checkpoints(self):
        """(batches, prefix, number) of each; -1 batches where it has no record."""
        for prefix in (self.prefix, store.partial(self.prefix)):
            for number in store.numbers(prefix):
                there = os.path.exists(store.record_path(prefix, number))
                batches = store.load_record(prefix, number)["batches"] if there else -1
                yield batches, prefix, number

    def check_files(self):
        """Every file under its final name is whole, and none that was further on is lost."""
        furthest = 0
        for batches, prefix, number in self._checkpoints():
            path = store.params_path(prefix, number)
            version = path, os.stat(path).st_mtime_ns
            if batches < 0:
                mx.nd.load(path)
            elif version not in self._verified:
                store.verify(prefix, number)
                self._verified.add(version)
            furthest = max(furthest, batches)
        assert furthest >= self.done
        self.fruitless = 0 if furthest > self.done else self.fruitless + 1
        self.done = furthest
        for ending in ("-config.json", "-symbol.json", "-partial-symbol.json"):
            json.loads(self._read(ending) or "{}")

    def check_end(self, other):
        """It has come to its end as ``other`` has, and tidied up."""
        for name in (f"x-{EPOCHS:04d}.params", f"x-{EPOCHS:04d}-optimizer.params", "x-symbol.json"):
            paths = os.path.join(self.folder, name), os.path.join(other.folder, name)
            assert filecmp.cmp(*paths, shallow=False), name
        records = [store.load_record(run.prefix, EPOCHS) for run in (self, other)]
        for name in ("batches", "skipped", "scores", "reported", "best"):
            assert records[0][name] == records[1][name], name
        assert figures(self.prefix) == figures(other.prefix)
        assert sorted(os.listdir(self.folder)) == sorted(os.listdir(other.folder))


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path):
    records = write_records(tmp_path / "bands", *bands(70, seed=1, size=80, channels=3))
    whole = Training(tmp_path / "whole", records)
    start = time.monotonic()
    whole.live()
    seconds = time.monotonic() - start
    assert sorted(figures(whole.prefix)) == list(range(1, EPOCHS + 1))
    rng, phases, lives = random.Random(0), collections.Counter(), []
    while sum(phases.values()) < KILLS:
        run = Training(tmp_path / "run", records)
        ended = False
        while not ended:
            last = sum(phases.values()) + len(run.phases) == KILLS
            # Less than a whole life, so that few end; more and more until it gets further.
            longest = 0.7 * seconds * 1.1**run.fruitless
            try:
                run.live(300 if last else rng.uniform(0, longest))
                ended = True
            except Killed:
                run.check_files()
        run.check_end(whole)
        phases.update(run.phases)
        lives.append(len(run.phases) + 1)
        shutil.rmtree(run.folder)
    print(f"\n{len(lives)} runs, equal to one of {seconds:.1f} s, in up to {max(lives)} lives each")
    for phase, count in phases.most_common():
        print(f"{count:5} killed while {phase}")
    assert len(phases) == 5, "the moments leave a phase out"


class Death(BaseException):
    """From here on the process does nothing more."""


def live(monkeypatch, steps, *flags):
    """Train in this process until it has renamed or deleted ``steps`` files; whether it ended."""
    taken = itertools.count()

    def mortal(function):
        def act(*args, **options):
            if next(taken) >= steps:
                raise Death  # what is left to do while it unwinds raises it again
            return function(*args, **options)

        return act

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink"):
            patch.setattr(os, name, mortal(getattr(os, name)))
        patch.setattr("sys.argv", ["train_imagenet.py", *map(str, flags)])
        try:
            train_imagenet.main()
        except Death:
            return False
    return True


@pytest.mark.slow
def test_a_run_goes_on_from_between_any_two_steps_of_a_save(tmp_path, monkeypatch):
    data = write_records(tmp_path / "bands", *bands(40, seed=1))
    flags = ["--network", "lenet", "--dataset", "mnist", "--data-train", data, "--data-val", data]
    flags += ["--batch-size", 20, "--num-epochs", 3, "--deterministic", "--resume"]
    flags += ["--save-minutes", 1e-9, "--save-period", 2, "--keep", 1, "--model-prefix"]
    whole = tmp_path / "whole"
    live(monkeypatch, math.inf, *flags, whole / "x")
    failures = []
    for steps in itertools.count():
        folder = tmp_path / f"after{steps}"
        if live(monkeypatch, steps, *flags, folder / "x"):
            break
        try:
            live(monkeypatch, math.inf, *flags, folder / "x")
            assert sorted(os.listdir(folder)) == sorted(os.listdir(whole))
            for name in ("x-0003.params", "x-0003-optimizer.params"):
                assert filecmp.cmp(folder / name, whole / name, shallow=False)
            assert figures(folder / "x") == figures(whole / "x")
        except (UserError, AssertionError) as error:
            failures.append(f"before step {steps}: {error}")
    assert not failures, "\n".join(failures)
    assert steps > 40
