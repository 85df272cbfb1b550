"""How the C++ operators are built and loaded, and what MXNet does where they cannot be."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import mxnet as mx
import pytest
from conftest import ROOT, run_script

from common.runtime import native

pytestmark = pytest.mark.skipif(not native.load(), reason="no C++ compiler")
BUILD = "import common.runtime.mxnet; from common.runtime import native; mx_lib = native.build()"


def start(cache, code, **environment):
    environment = {**os.environ, "PYTHONPATH": ROOT, "XDG_CACHE_HOME": str(cache), **environment}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, start_new_session=True
    )


def test_two_processes_that_build_at_once_both_get_a_whole_library(tmp_path):
    jobs = [start(tmp_path, f"{BUILD}; native.load()") for _ in range(2)]
    for job in jobs:
        _, said = job.communicate(timeout=300)
        assert job.returncode == 0 and said == b""
    assert len(list((tmp_path / "alexnet-mxnet").iterdir())) == 1


# Writes part of a library, says so, and goes on for ever.
SLOW_COMPILER = """#!/bin/sh
while [ "$1" != -o ]; do shift; done
echo part > "$2"
touch "$0.started"
sleep 1000
"""


def test_a_killed_build_leaves_nothing_that_is_taken_for_a_library(tmp_path):
    compiler = tmp_path / "slow"
    compiler.write_text(SLOW_COMPILER)
    compiler.chmod(0o755)
    job = start(tmp_path, BUILD, CXX=str(compiler))
    deadline = time.monotonic() + 120
    while not os.path.exists(f"{compiler}.started"):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate()
    left = [path.name for path in (tmp_path / "alexnet-mxnet").iterdir()]
    assert len(left) == 1 and not left[0].endswith(".so")
    # Here the compiler is one with arguments, too.
    after = run_script(
        "-c", f"{BUILD}; assert native.load()", XDG_CACHE_HOME=str(tmp_path), CXX="env -u X g++"
    )
    assert after.returncode == 0 and after.stderr == ""


# As one whose assembler does not know AMX's instructions, and VNNI's.
OLD_COMPILER = """#!/bin/sh
case "$*" in
  *-DALEXNET_NO_AMX*-DALEXNET_NO_VNNI*) while [ "$1" != -o ]; do shift; done; echo built > "$2";;
  *) echo "Error: no such instruction: 'tileloadd (%rdx,%r8,1),%tmm4'" >&2
     echo "Error: unsupported instruction 'vpdpbusd'" >&2; exit 1;;
esac
"""


def test_an_assembler_that_knows_neither_amx_nor_vnni_builds_the_rest(tmp_path):
    compiler = tmp_path / "old"
    compiler.write_text(OLD_COMPILER)
    compiler.chmod(0o755)
    show = f"{BUILD}; print(open(mx_lib).read().strip())"
    result = run_script("-c", show, XDG_CACHE_HOME=str(tmp_path), CXX=str(compiler))
    assert (result.stdout, result.stderr) == ("built\n", "")


def test_the_rest_compiles():
    without = ["-DALEXNET_NO_AMX", "-DALEXNET_NO_VNNI"]
    include = os.path.join(os.path.dirname(mx.__file__), "include")
    source = os.path.join(ROOT, "native", "ops.cc")
    command = ["g++", "-std=c++11", "-fsyntax-only", "-w", f"-I{include}"]
    done = subprocess.run([*command, *without, source], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_gcc_9_knows_the_names_of_the_instruction_sets():
    known = {"avx2", "fma", "avx512vl", "avx512vnni"}  # to __builtin_cpu_supports
    text = "".join(path.read_text() for path in (pathlib.Path(ROOT) / "native").glob("*.h"))
    assert set(re.findall(r'__builtin_cpu_supports\("(.*?)"\)', text)) == known


def assert_falls_back(result, *words):
    assert result.returncode == 0, result.stderr
    assert (
        result.stderr.count("\n") == 1
        and "MXNet's own, which are correct but slower" in result.stderr
    )
    for word in words:
        assert word in result.stderr


REFUSED = "import common.runtime.mxnet; from common.runtime import native; assert not native.load()"


@pytest.mark.parametrize(
    "compiler, words",
    [
        ("no-such-compiler", "no no-such-compiler to build"),
        ("env no-such-compiler", "env no-such-compiler fails"),
        ("g++ '", "No closing quotation"),
    ],
)
def test_without_a_compiler_training_goes_on_and_one_line_says_what_is_lost(
    tmp_path, compiler, words
):
    result = run_script("-c", REFUSED, XDG_CACHE_HOME=str(tmp_path), CXX=compiler)
    assert_falls_back(result, words)


def test_a_cache_that_cannot_be_written_leaves_mxnets_own_operators():
    result = run_script("-c", REFUSED, XDG_CACHE_HOME="/proc/nothing")
    assert_falls_back(result, "/proc/nothing: No such file or directory")


def test_absent_sources_leave_mxnets_own_operators(tmp_path):
    show = REFUSED.replace("; assert", f"; native._SOURCE = '{tmp_path}/ops.cc'; assert")
    assert_falls_back(run_script("-c", show), f"{tmp_path}/ops.cc: No such file or directory")


def test_a_full_disk_leaves_mxnets_own_operators(tmp_path):
    code = """
import resource
import common.runtime.mxnet
from common.runtime import native
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
assert not native.load()
"""
    result = run_script("-c", code, XDG_CACHE_HOME=str(tmp_path))
    assert_falls_back(result)
    assert not [p for p in (tmp_path / "alexnet-mxnet").iterdir() if p.name.endswith(".so")]


THREADS = """
import threading
from common.runtime.mxnet import mx
from common.runtime import native
calls, register, found = [], mx.library.load, []
def counted(*args):
    calls.append(args)
    return register(*args)
mx.library.load = counted
together = threading.Barrier(8)
def use():
    together.wait()
    found.append(native.load())
threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert found == [True] * 8 and len(calls) == 1, (found, len(calls))
"""


def test_threads_that_load_at_once_register_the_operators_once():
    result = run_script("-c", THREADS)
    assert result.returncode == 0 and result.stderr == "", result.stderr


SIGNALS = """
import ctypes
from common.runtime.mxnet import mx
def caught():  # which signals have a handler
    with open("/proc/self/status") as file:
        return next(line for line in file if line.startswith("SigCgt"))
before = caught()
from common.runtime import native
assert native.load()
assert caught() == before
for _ in range(3):  # as often as one likes
    handle = ctypes.c_void_p(mx.base._LIB._handle)
    assert native.library().alexnet_check_images(handle) == 1
assert native.library().alexnet_check_images(ctypes.c_void_p(ctypes.CDLL(None)._handle)) == 0
"""


def test_the_check_of_images_handles_no_signal_and_is_there_once():
    result = run_script("-c", SIGNALS)
    assert result.returncode == 0, result.stderr
