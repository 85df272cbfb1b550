"""Damaged checkpoints are refused in one line, or give exactly what was saved; nothing crashes."""

import contextlib
import io
import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT
from mutations import mutate

import symbols
import train_imagenet
from common.checkpoint import store
from common.checkpoint.config import load_config, save_config
from common.cli import UserError
from common.evaluate import network
from common.train import resume

pytestmark = pytest.mark.slow

FILES = [
    "x-0002.params",
    "x-0002-optimizer.params",
    "x-symbol.json",
    "x-0002.json",
    "x-config.json",
]
SHAPE = (4, 1, 32, 32)
DATA = SimpleNamespace(fingerprint="fingerprint", records=None, name="x.rec")
SECONDS, MEMORY = 30, 1 << 30  # that a fault may cost; 0.3 GiB go to MXNet


def arguments(folder, classes):
    """The command line of a run that goes on with a checkpoint in ``folder``."""
    flags = ["--network", "lenet", "--dataset", "mnist", "--data-train", "x.rec", "--resume"]
    flags += ["--model-prefix", os.path.join(folder, "x")]
    with mock.patch("sys.argv", ["train_imagenet.py", *flags]):
        args, *_ = train_imagenet.parse_args()
    args.num_classes = classes
    return args


def write_run(folder, classes):
    """Two epochs' checkpoints of LeNet with all that belongs to them."""
    os.mkdir(folder)
    args, state = arguments(folder, classes), resume.State()
    symbol = symbols.get_symbol("lenet", classes)
    shapes, _, _ = symbol.infer_shape(data=SHAPE)
    rng = np.random.RandomState(classes)
    for epoch in (1, 2):
        arrays = {
            name: mx.nd.array(rng.normal(size=shape))
            for name, shape in zip(symbol.list_arguments(), shapes)
            if name not in ("data", "softmax_label")
        }
        optimizer = {f"{name}:0": array / 2 for name, array in arrays.items()}
        state.batches = 10 * epoch
        record = {"args": vars(args), "data": "fingerprint", **vars(state)}
        store.save(args.model_prefix, epoch, symbol, arrays, {}, optimizer, **record)
    save_config(args.model_prefix, vars(args), [f"class {i}" for i in range(classes)])


def read(*path):
    with open(os.path.join(*path), "rb") as file:
        return file.read()


def places(name, content):
    """Offsets of the numbers that say how the rest of a file is to be read."""
    if not name.endswith(".params"):
        return [match.start() for match in re.finditer(rb"\d+", content)]
    arrays = [match.start() for match in re.finditer(b"\xc9\xfa\x93\xf9", content)]
    names = [match.start() - 8 for match in re.finditer(rb"(arg:)?\w+_(weight|bias)", content)]
    words = [start + 4 * i for start in arrays[:3] + arrays[-1:] for i in range(14)]
    return [*range(0, 24, 4), *words, names[0] - 8, names[0] - 4, *names]


def of_random_faults(folder, names, count):
    """(name, content) of ``count`` faults in the files ``names`` by turns."""
    for seed in range(count):
        name = names[seed % len(names)]
        content = read(folder, "whole", name)
        others = [os.path.join("other", name), os.path.join("whole", name.replace("0002", "0001"))]
        if seed // len(names) % 10 == 0:
            yield name, read(folder, others[seed // len(names) // 10 % 2])
        else:
            yield name, mutate(content, seed, places(name, content))


def of_extremes(folder):
    """(name, content) with each number that matters replaced by each of some extreme ones."""
    name = "x-symbol.json"
    content = read(folder, "whole", name)
    for match in re.finditer(rb"\d+", content):
        for value in (0, 1, 30, 2**31 - 1, 2**31, 2**32 - 1, 2**63, -1):
            yield name, content[: match.start()] + b"%d" % value + content[match.end() :]
    name = "x-0002.params"
    content = read(folder, "whole", name)
    for at in places(name, content):
        for value in (0, 1, 2, 255, 2**20, 2**28, 2**31 - 1, 2**31, 2**32 - 1):
            yield name, content[:at] + value.to_bytes(4, "little") + content[at + 4 :]


def refused(function, *args):
    """What ``function`` returns, or None if it refuses in one line that names the checkpoint."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return function(*args)
    except UserError as error:
        assert "\n" not in str(error)
        assert "damaged/x" in str(error)
        return None


def equal(arrays, others):
    return arrays.keys() == others.keys() and all(
        np.array_equal(arrays[name].asnumpy(), others[name].asnumpy()) for name in arrays
    )


def check_with_record(folder, whole):
    """Loading and resuming give what ``whole`` has, or nothing."""
    prefix, original = os.path.join(folder, "x"), os.path.join(whole, "x")
    loaded = refused(store.load, prefix, 2)
    if loaded:
        symbol, arg_params, aux_params = mx.model.load_checkpoint(original, 2)
        assert loaded[0].tojson() == symbol.tojson()
        assert equal(loaded[1], arg_params) and loaded[2] == aux_params == {}
    resumed = refused(resume.find, arguments(folder, 3), DATA)
    if resumed:
        assert resumed.place[0] == prefix
        epoch = resumed.place[1]
        assert resumed.state.batches == 10 * epoch
        assert equal(resumed.arg_params, mx.model.load_params(original, epoch)[0])
        assert equal(resumed.optimizer, mx.nd.load(f"{original}-{epoch:04d}-optimizer.params"))
    config = refused(load_config, prefix)
    if read(f"{prefix}-config.json") == read(f"{original}-config.json"):
        assert config == load_config(original)


def check_bare(folder, whole):
    """What stock MXNet saves has no checksums: it may load as something else, but that runs."""
    loaded = refused(store.load, os.path.join(folder, "x"), 2)
    if loaded:
        with contextlib.suppress(RuntimeError, ValueError, KeyError):  # they do not fit together
            module = network.bind(*loaded, SHAPE, [mx.cpu()])
            module.forward(mx.io.DataBatch([mx.nd.zeros(SHAPE)]), is_train=False)
            module.get_outputs()[0].wait_to_read()


def work(faults, check, folder, first):
    """In a process of its own: ``check`` each of ``faults`` from ``first`` on, after its number."""
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    damaged, whole = os.path.join(folder, "damaged"), os.path.join(folder, "whole")
    for number, (name, content) in itertools.islice(enumerate(faults), first, None):
        print(number, name, flush=True)
        signal.alarm(SECONDS)  # a hang dies of it
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(whole, damaged)
        if check is check_bare:
            for other in ("x-0001.json", "x-0002.json"):
                os.unlink(os.path.join(damaged, other))
        with open(os.path.join(damaged, name), "wb") as file:
            file.write(content)
        check(damaged, whole)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        assert peak < MEMORY, f"{peak >> 20} MiB"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of two runs, in ``whole`` and ``other``."""
    path = tmp_path_factory.mktemp("mutations")
    write_run(path / "whole", 3)
    write_run(path / "other", 4)
    return str(path)


@pytest.mark.parametrize(
    "faults, check, count",
    [
        ("of_random_faults(folder, FILES, 1000)", "check_with_record", 1000),
        ("of_random_faults(folder, FILES[:3:2], 1000)", "check_bare", 1000),
        ("of_extremes(folder)", "check_bare", 1000),
    ],
    ids=["with records", "bare", "bare, extreme numbers"],
)
def test_no_damage_crashes_hangs_or_goes_unnoticed(folder, faults, check, count):
    failures, next_one = [], 0
    while len(failures) < 10:
        code = f"folder = {folder!r}; work({faults}, {check}, folder, {next_one})"
        result = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import common.runtime.mxnet; from test_checkpoint_mutations import *; {code}",
            ],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests:{ROOT}/tests/checkpoint"},
            capture_output=True,
            text=True,
        )
        said = [line for line in result.stdout.splitlines() if line[:1].isdigit()]
        if result.returncode == 0:
            break
        assert said, result.stderr
        cause = " ".join(result.stderr.split())[-200:]
        failures.append(f"{said[-1]}: exit code {result.returncode}, {cause}")
        next_one = int(said[-1].split()[0]) + 1
    assert not failures, "\n".join([faults, *failures])
    assert int(said[-1].split()[0]) + 1 >= count
