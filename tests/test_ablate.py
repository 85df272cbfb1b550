"""A study: chosen on the holdout, scored on the test images once, resumed after any kill."""

import csv
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from conftest import ROOT, assert_refused, bands, run_here, run_script, write_records

import ablate
import score
import train_imagenet
from common.cli import UserError
from common.study import process, report
from common.train import diagnosis

MAINS = {"train_imagenet.py": train_imagenet.main, "score.py": score.main}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Record files of a training set, a holdout and a test set of 32x32 grey pictures."""
    folder = tmp_path_factory.mktemp("records")
    counts = {"train": 100, "holdout": 33, "test": 34}
    return {
        name: write_records(folder / name, *bands(count, seed=count))
        for name, count in counts.items()
    }


@pytest.fixture
def study(records, tmp_path):
    """Call it to have the file of a study, with these entries in place of others."""

    def write(**changes):
        entries = {
            "about": "a small one",
            "records": records,
            "flags": "--network lenet --dataset mnist --batch-size 16 --num-epochs 2",
            "choose": {"rates": [0.01, 1], "flags": "--num-epochs 1"},
            "seeds": [3, 4],
            "variants": {"baseline": "", "relu": "--activation relu"},
        }
        path = tmp_path / "study.json"
        path.write_text(json.dumps({**entries, **changes}))
        return str(path)

    return write


@pytest.fixture
def here(monkeypatch):
    """Runs happen in this process; the list of their commands, without the interpreter."""
    commands = []

    def execute(command, output, _stop):
        commands.append(command[1:])
        result = run_here(MAINS[os.path.basename(command[1])], *command[2:])
        with open(output, "a") as file:
            file.write(result.stdout + result.stderr)
        return result.returncode

    monkeypatch.setattr(process, "execute", execute)
    monkeypatch.setattr(process, "speed", lambda *_: 1000.0)
    monkeypatch.setattr("common.study.plan.speed", lambda *_: 1000.0)
    return commands


def run(*arguments):
    return run_here(ablate.main, *arguments)


def read(path):
    with open(path) as file:
        return json.load(file)


def files_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_rates_are_chosen_on_the_holdout_and_the_test_is_scored_once(
    study, records, here, tmp_path
):
    out = tmp_path / "out"
    done = run(study(), "--out", out)
    assert done.returncode == 0, done.stderr
    scored = [dict(zip(c[1::2], c[2::2])) for c in here if c[0].endswith("score.py")]
    assert [s["--data-val"] for s in scored] == [records["holdout"]] * 4 + [records["test"]] * 4
    tried = {rate: read(out / f"relu-rate{rate}/score.json")["top-1"] for rate in ("0.01", "1")}
    assert tried["1"] > tried["0.01"]  # a hundredth of the rate learns nothing in one epoch
    assert read(out / "chosen.json")["rates"] == {"baseline": 1, "relu": 1}
    final = [c for c in here if c[0].endswith("train_imagenet.py")][4:]
    rates = [re.search(r"--lr (\S+) --seed (\d)", " ".join(c)).groups() for c in final]
    assert rates == [("0.05", "3")] * 2 + [("0.05", "4")] * 2
    assert not list(out.glob("*-rate*/*.params"))
    assert [p.name for p in sorted((out / "relu-seed3").glob("*.params"))] == [
        "net-0002-optimizer.params",
        "net-0002.params",
    ]

    before = files_in(out)
    here.clear()
    assert run(study(), "--out", out).returncode == 0
    assert here == [] and files_in(out) == before


def test_the_report_has_every_figure(study, here, tmp_path):
    out = tmp_path / "out"
    assert run(study(), "--out", out).returncode == 0
    here.clear()
    assert run(study(), "--out", out, "--report", tmp_path / "report").returncode == 0
    assert here == []
    written = read(tmp_path / "report.json")
    if importlib.util.find_spec("matplotlib"):
        assert cv2.imread(str(tmp_path / "report.png")).shape[1] > 1000
    relu = written["variants"]["relu"]
    top1 = [read(out / f"relu-seed{seed}/score.json")["top-1"] for seed in (3, 4)]
    assert [relu["runs"][seed]["top-1"] for seed in "34"] == top1
    assert relu["top-1"] == sum(top1) / 2 and relu["spread"] == abs(top1[0] - top1[1])
    assert relu["difference"] == relu["top-1"] - written["variants"]["baseline"]["top-1"]
    assert relu["rates"].keys() == {"0.0005", "0.05"} and relu["lr"] == 0.05
    run_of_seed = relu["runs"]["3"]
    assert [set(epoch) for epoch in run_of_seed["epochs"]] == [{"train", "holdout"}] * 2
    assert run_of_seed["seconds"] > 0 and run_of_seed["cpu"] and run_of_seed["versions"]["mxnet"]
    assert written["missing"] == []
    with open(tmp_path / "report.csv", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seeds"]) for row in rows] == [("baseline", "2"), ("relu", "2")]
    assert rows[1]["top-1"] == str(round(relu["top-1"], 4))
    shown = run_script("-m", "common.study.report", tmp_path / "report.json", "--error", 0.99)
    assert shown.returncode == 0, shown.stderr
    refused = run_script("-m", "common.study.report", tmp_path / "report.json", "--error", 1.5)
    assert_refused(refused, "--error")
    cells = shown.stdout.splitlines()[3].split(" | ")
    assert cells[:3] == ["| relu", "0.05", f"{relu['top-1']:.2%}"]
    assert cells[-2:] == ["2", "0.5, 0.5 |"]
    (tmp_path / "other.json").write_text("[]")
    wrong = run_script("-m", "common.study.report", tmp_path / "other.json")
    assert_refused(wrong, "other.json: is not what --report writes")


def test_a_report_needs_neither_results_nor_matplotlib(study, tmp_path, monkeypatch):
    out, prefix = tmp_path / "out", str(tmp_path / "report")
    out.mkdir()
    empty = run(study(), "--out", out, "--report", prefix)
    assert empty.returncode == 0 and "report.png: no final run has ended" in empty.stdout
    results = read(f"{prefix}.json")
    results["variants"]["relu"].update({"top-1": 0.5})
    monkeypatch.setattr(report, "collect", lambda _: results)
    monkeypatch.setattr(report, "table", lambda _: "")
    monkeypatch.setattr(report, "write", lambda *_: ["report.json"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    without = run(study(), "--out", out, "--report", prefix)
    assert without.returncode == 0 and "pip install '.[plots]'" in without.stdout
    assert not os.path.exists(f"{prefix}.png")


def test_epochs_to_an_error_are_counted_on_straight_lines_between_the_middles_of_epochs():
    run = [{"train": {"top-1": top1}} for top1 in (0.3, 0.5, 0.6)]
    reached = [report.epochs_to(run, error) for error in (0.8, 0.7, 0.6, 0.5, 0.45)]
    assert reached == pytest.approx([0.5, 0.5, 1.0, 1.5, 2.0])
    assert report.epochs_to(run, 0.3) is None


def test_a_new_variant_or_seed_joins_a_study_and_nothing_else_runs_again(study, here, tmp_path):
    one_rate = {"choose": {"rates": [1], "flags": ""}, "seeds": [3]}
    out = tmp_path / "out"
    assert run(study(**one_rate), "--out", out).returncode == 0
    here.clear()
    variants = {"baseline": "", "relu": "--activation relu", "elu": "--activation elu"}
    seeds = {"seeds": [3, 4], "more_seeds": {"relu": [5]}}
    more = study(**{**one_rate, "variants": variants, **seeds})
    assert run(more, "--out", out).returncode == 0
    trained = [c for c in here if c[0].endswith("train_imagenet.py")]
    names = [os.path.basename(os.path.dirname(c[c.index("--model-prefix") + 1])) for c in trained]
    assert names == ["elu-seed3", "baseline-seed4", "relu-seed4", "elu-seed4", "relu-seed5"]
    first = {"seeds": [4, 3]}
    assert_refused(run(study(**{**one_rate, **first}), "--out", out), "other seed")
    other = study(**one_rate, flags="--network lenet --dataset mnist --batch-size 8")
    assert_refused(run(other, "--out", out), "study with other flags")
    other = study(**one_rate, variants={"baseline": "", "relu": "--activation elu"})
    assert_refused(run(other, "--out", out), "relu has other flags")


def ended_by_the_guard():
    guard = diagnosis.Divergence(2, "--lr 9 is too high")
    with pytest.raises(UserError) as ended:
        for batch in range(guard.BATCHES):
            guard.check(batch, np.float32([[1, 0]]), np.float32([1]))
    return str(ended.value)


@pytest.mark.parametrize("diverged", ["batch 7: the loss is not finite", ended_by_the_guard()])
def test_a_failed_run_is_named_and_the_others_are_done(
    study, here, tmp_path, monkeypatch, diverged
):
    working = process.execute
    broken = {"baseline-rate1/": "no room", "relu-rate1/": diverged}

    def execute(command, output, stop):
        for name, said in broken.items():
            if name in " ".join(command):
                with open(output, "a") as file:
                    file.write(f"started\nerror: {said}\n")
                return 2
        return working(command, output, stop)

    monkeypatch.setattr(process, "execute", execute)
    out = tmp_path / "out"
    failed = run(study(seeds=[3]), "--out", out)
    assert failed.returncode == 1
    assert failed.stderr.splitlines() == [
        "failed: baseline-rate1: error: no room",
        "failed: baseline-seed3: not run, since no rate could be chosen",
    ]
    # A rate at which the loss diverges is not chosen; that is an answer, not a failure.
    assert read(out / "chosen.json")["rates"] == {"relu": 0.01}
    assert (out / "relu-seed3/score.json").exists()
    broken.clear()
    assert run(study(seeds=[3]), "--out", out).returncode == 0
    assert read(out / "chosen.json")["rates"] == {"relu": 0.01, "baseline": 1}


def test_a_killed_run_has_not_diverged_whatever_was_said_before(study, here, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def execute(command, output, stop):
        with open(output, "a") as file:
            file.write("batch 7: the loss is not finite\n")
        return -9

    monkeypatch.setattr(process, "execute", execute)
    failed = run(study(seeds=[3], variants={"relu": "--activation relu"}), "--out", out)
    assert failed.returncode == 1
    assert "relu-rate1: killed by SIGKILL" in failed.stderr
    assert not list(out.rglob("result.json"))


def test_a_log_that_a_full_disk_has_cut_is_read(study, here, tmp_path):
    out = tmp_path / "out"
    assert run(study(seeds=[3]), "--out", out).returncode == 0
    with open(out / "relu-seed3/net-log.jsonl", "a") as file:
        file.write('{"event": "ep')
    (out / "relu-seed3/result.json").unlink()
    assert run(study(seeds=[3]), "--out", out).returncode == 0


def test_a_report_replaces_no_file_of_the_study(study, here, tmp_path):
    path = study()
    before = read(path)
    flags = ["--out", tmp_path / "out", "--report"]
    assert_refused(run(path, *flags, path[: -len(".json")]), "--report", "a file of the study")
    assert read(path) == before
    (tmp_path / "r.csv").mkdir()
    assert_refused(run(path, *flags, tmp_path / "r"), "r.csv: is a folder")


def test_a_plan_writes_nothing(study, tmp_path):
    one_rate = study(choose={"rates": [1], "flags": ""}, variants={"baseline": ""})
    planned = run_script("ablate.py", one_rate, "--out", tmp_path / "out", "--plan")
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"baseline-seed4  about \d+ seconds\n2 runs, 0 ended; ", planned.stdout)
    assert not (tmp_path / "out").exists()


def alive(pattern):
    """The processes whose command line holds ``pattern``."""
    found = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if pattern in line]


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_study_leaves_no_process_and_goes_on_where_it_was(study, tmp_path):
    flags = "--network lenet --dataset mnist --batch-size 16 --num-epochs 12"
    entries = {"choose": {"rates": [1], "flags": ""}, "seeds": [3], "variants": {"baseline": ""}}
    out = tmp_path / "out"
    command = [sys.executable, "ablate.py", study(**entries, flags=flags), "--out", str(out)]
    for number, code, epoch in ((signal.SIGTERM, 143, 1), (signal.SIGKILL, -9, 4)):
        pipe = subprocess.PIPE
        child = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT)
        wait_until((out / f"baseline-seed3/net-{epoch:04d}.json").exists)
        child.send_signal(number)
        assert child.wait(timeout=60) == code, child.stdout.read()
        wait_until(lambda: not alive(f"{out}/baseline-seed3/net"))
        assert not (out / "baseline-seed3/result.json").exists()

    again = run_script(*command[1:])
    assert again.returncode == 0, again.stderr
    with open(out / "baseline-seed3/net-log.jsonl") as file:
        events = [json.loads(line)["event"] for line in file]
    assert [e for e in events if e in ("start", "resume")] == ["start", "resume", "resume"]
    result = read(out / "baseline-seed3/result.json")
    assert [epoch["epoch"] for epoch in result["epochs"]] == list(range(1, 13))


REFUSED = {
    "not JSON": ("{", "is not JSON"),
    "an entry less": ({"records": {"train": "x.rec"}}, "lacks 'holdout'"),
    "no such recipe": ({"flags": "--network lenet --dataset flowers"}, "recipes for"),
    "a rate of 0": ({"choose": {"rates": [0], "flags": ""}}, "above 0"),
    "a rate that is no number": ({"choose": {"rates": [float("nan")], "flags": ""}}, "above 0"),
    "rates of one name": ({"choose": {"rates": [0.12345678, 0.12345679], "flags": ""}}, "once"),
    "no flags": ({"variants": {"x": None}}, "flags are a text, not None"),
    "the same seed twice": ({"seeds": [1, 1]}, "each of them once"),
    "a seed again": ({"more_seeds": {"relu": [4]}}, "seeds of relu: has to have entries, each of"),
    "more seeds of nothing": ({"more_seeds": {"elu": [5]}}, "there is no variant elu"),
    "a name that is a path": ({"variants": {"../x": ""}}, "its name is a folder's"),
    "a length of its own": ({"variants": {"x": "--num-epochs 9"}}, "itself sets --num-epochs"),
    "test images as data": ({"flags": "--data-val=test.rec"}, "itself sets --data-val"),
    "a wrong value": ({"variants": {"x": "--lr -1"}}, "--lr"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_study_is_refused(name, study, tmp_path):
    changes, word = REFUSED[name]
    path = study(**(changes if isinstance(changes, dict) else {}))
    if isinstance(changes, str):
        with open(path, "w") as file:
            file.write(changes)
    assert_refused(run(path, "--out", tmp_path / "out"), path, word)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_run_is_refused_before_anything_is_written(
    study, records, here, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    assert_refused(run(tmp_path / "no.json", "--out", out), "no.json")
    without = study(records={**records, "holdout": str(tmp_path / "holdout.rec")})
    assert_refused(run(without, "--out", out), "holdout.rec: not there", "--holdout")
    same = study(records={**records, "holdout": records["test"]})
    assert_refused(run(same, "--out", out), "are the same file")
    assert_refused(run(study(), "--out", out, "--report", tmp_path / "x"), "nothing to report")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5000}))
    assert_refused(run(study(), "--out", out), "GB for checkpoints")
    monkeypatch.undo()
    assert not out.exists()
    out.mkdir()
    (out / "precious").touch()
    assert_refused(run(study(), "--out", out), "holds other files")


def test_a_variant_that_cannot_be_trained_is_refused_before_the_first_run(study, tmp_path):
    variants = {"lrn": "--normalization none"}
    refused = run_script("ablate.py", study(variants=variants), "--out", tmp_path / "out")
    assert_refused(refused, "lrn: ", "lenet: has no --normalization")
    assert not (tmp_path / "out").exists()


def test_the_last_line_is_that_of_the_process_itself(tmp_path):
    output = tmp_path / "output.txt"
    output.write_text("of an earlier one\n")
    begun = output.stat().st_size
    assert process.last_line(str(output), begun) == f"it said nothing; {output} has its output"
    output.write_text("of an earlier one\nits own\n\n")
    assert process.last_line(str(output), begun) == "its own"
