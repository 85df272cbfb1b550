"""Training runs and their scores, each a process of its own that ends with this one."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from typing import List, Optional

from common.checkpoint import store
from common.checkpoint.config import load_config
from common.cli import UserError
from common.io import cpus
from common.io.children import ROOT, as_child
from common.io.history import log_path, read_history
from common.io.signals import Stop
from common.records.scan import scan_records

from .folder import Folder, Run

_TIMED = 30  # batches that time a variant; training says its speed after 22
_DIVERGED = ("not finite", "far above that of guessing")  # a training says of its loss


def training(folder: Folder, run: Run) -> List[str]:
    """The command of a run's training; final runs are validated on the holdout, for curves."""
    study = folder.study
    flags = [*study.flags, *(study.choosing if run.is_trial else []), *study.variants[run.variant]]
    rate = run.rate if run.is_trial else folder.rates()[run.variant]
    flags += ["--lr", f"{study.settings(run.variant).lr * rate:g}"]
    flags += ["--seed", str(study.seeds[0] if run.is_trial else run.seed)]
    flags += ["--data-train", study.records["train"]]
    flags += [] if run.is_trial else ["--data-val", study.records["holdout"]]
    flags += ["--model-prefix", folder.prefix(run)]
    flags += ["--resume", "--keep", "1", "--save-minutes", "5"]
    return script("train_imagenet.py", flags)


def scoring(folder: Folder, run: Run) -> List[str]:
    """The command that scores a trained run: a trial on the holdout, else on the test images."""
    study = folder.study
    records = study.records["holdout" if run.is_trial else "test"]
    epoch = study.settings(run.variant, run.is_trial).num_epochs
    flags = ["--model-prefix", folder.prefix(run), "--load-epoch", str(epoch)]
    return script(
        "score.py", [*flags, "--data-val", records, "--json", folder.of(run, "score.json")]
    )


def script(name: str, flags: List[str]) -> List[str]:
    """The command that runs a script of the project."""
    return [os.path.relpath(sys.executable), os.path.relpath(os.path.join(ROOT, name)), *flags]


def perform(folder: Folder, run: Run, stop: Stop) -> Optional[str]:
    """Train and score a run, or go on where it was killed; what it said last if it has failed."""
    os.makedirs(folder.of(run), exist_ok=True)
    output = folder.of(run, "output.txt")
    code, said = _run(training(folder, run), output, stop)
    if code == 2 and any(text in said for text in _DIVERGED):
        finish(folder, run, {"diverged": said})
        return None
    if code:
        return said
    if not os.path.exists(folder.of(run, "score.json")):
        code, said = _run(scoring(folder, run), output, stop)
        if code:
            return said
    finish(folder, run, _measured(folder, run))
    return None


def _run(command, output, stop):
    """The exit code of a command, and what it said last if it has failed."""
    print(shlex.join(command))
    begun = os.path.getsize(output) if os.path.exists(output) else 0
    code = execute(command, output, stop)
    if code < 0:
        return code, f"killed by {signal.Signals(-code).name}; {output} has its output"
    return code, last_line(output, begun) if code else ""


def execute(command: List[str], output: Optional[str], stop: Stop) -> int:
    """Run a command, its output appended to a file, or to ours; returns its exit code.

    A signal that has asked ``stop`` to stop is passed on, and ends this process after that one.
    """
    with open(output, "ab") if output else contextlib.nullcontext() as file:
        options = {**as_child(), **({} if output else {"stderr": None})}
        # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
        child = subprocess.Popen(command, stdout=file, start_new_session=True, **options)
    told = False
    while True:
        try:
            code = child.wait(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            if stop.requested and not told:
                told = True
                child.terminate()
    if stop.requested:
        print("stopped; the same command goes on from here")
        stop.leave()
    return code


def last_line(output: str, begun: int = 0) -> str:
    """What a process said last in its output file, of which it found ``begun`` bytes."""
    with open(output, encoding="utf-8", errors="replace") as file:
        file.seek(begun)
        lines = [line.strip() for line in file if line.strip()]
    return lines[-1] if lines else f"it said nothing; {output} has its output"


def finish(folder: Folder, run: Run, result: dict) -> None:
    """Keep the result of a run, and of its checkpoints a final run's last one."""
    folder.save_result(run, result)
    epoch = folder.study.settings(run.variant, run.is_trial).num_epochs
    store.remove(folder.prefix(run), keep=[] if run.is_trial or "diverged" in result else [epoch])
    store.remove(store.partial(folder.prefix(run)))


def _measured(folder, run):
    config = load_config(folder.prefix(run))
    with open(folder.of(run, "score.json"), encoding="utf-8") as file:
        score = json.load(file)
    return {
        "score": score,
        "epochs": list(read_history(log_path(folder.prefix(run))).epochs.values()),
        "images": config["args"]["num_examples"] or len(scan_records(config["args"]["data_train"])),
        "versions": config["versions"],
        "cpu": cpus.model(),
        "command": shlex.join(training(folder, run)),
    }


def speed(flags: List[str], name: str, images: int, batch_size: int, lr: float) -> float:
    """Images a second of a training with these settings, timed in a process that writes no file.

    UserError, which begins with ``name``, if it cannot be trained.
    """
    timed = min(images, _TIMED * batch_size)
    command = script(
        "train_imagenet.py",
        [*flags, "--num-examples", str(timed), "--num-epochs", "1"]
        + ["--warmup-epochs", "0", "--lr", f"{lr / 10:g}"],
    )
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **as_child())
    said = re.findall(r"at (\d+) img/s", done.stdout) or re.findall(r"(\d+) img/s", done.stdout)
    if done.returncode or not said:
        raise UserError(f"{name}: {(done.stdout.strip().splitlines() or ['no output'])[-1]}")
    return float(said[0])
