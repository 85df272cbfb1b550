"""The CPUs that this process may use: affinity, hyper-threads, the quotas of control groups."""

import contextlib
import os
import platform
import subprocess
import sys

import pytest
from conftest import ROOT, assert_refused, run_script

from common.cli import UserError
from common.io import cpus

V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
SHOW = "from common.io import cpus; print(cpus.available())"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A machine's /proc and /sys in a folder: 8 CPUs, each a core of its own."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)), raising=False)
    return tmp_path


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def control_groups(root, mounts, groups):
    write(root, "proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts + "\n")
    write(root, "proc/self/cgroup", groups + "\n")


def test_the_model_is_the_first_processors_name(root):
    assert cpus.model(root) == platform.machine()
    write(
        root, "proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD EPYC 7B13\ncache size\t: 512 KB\n"
    )
    assert cpus.model(root) == "AMD EPYC 7B13"


@pytest.mark.parametrize(
    "flags, fast", [("fpu avx2", False), ("avx2 avx512_vnni", True), ("avx2 avx_vnni", True)]
)
def test_int8_is_fast_where_the_processor_says_vnni(root, monkeypatch, flags, fast):
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    assert cpus.instructions(root) == [] and not cpus.has_int8(root)
    write(root, "proc/cpuinfo", f"model name\t: AMD EPYC 7B13\nflags\t\t: {flags}\nbugs\t\t: x\n")
    assert cpus.instructions(root) == flags.split() and cpus.has_int8(root) == fast
    for isa, lacks in (("AVX2", True), ("AVX512_CORE", True), ("AVX512_CORE_VNNI", False)):
        monkeypatch.setenv("DNNL_MAX_CPU_ISA", isa)
        assert cpus.has_int8(root) == (fast and not lacks)
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2_VNNI")
    assert cpus.has_int8(root) == ("avx_vnni" in flags)


def test_without_proc_and_sys_the_affinity_counts(root):
    assert cpus.available(root) == 8


def test_hyper_threads_of_a_core_count_once(root):
    for cpu in range(8):
        path = f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        write(root, path, f"{cpu % 4},{cpu % 4 + 4}\n")
    assert cpus.available(root) == 4


@pytest.mark.parametrize(
    "limit, count",
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # rounded up
        ("5000 100000\n", 1),
        ("max 100000\n", 8),
        ("6400000 100000\n", 8),  # more than there are
        ("nonsense\n", 8),
        ("", 8),
    ],
)
def test_a_quota_of_version_2_is_heeded(root, limit, count):
    control_groups(root, V2, "0::/")
    write(root, "sys/fs/cgroup/cpu.max", limit)
    assert cpus.available(root) == count


def test_the_narrowest_of_nested_groups_counts(root):
    control_groups(root, V2, "0::/pod/job/step")
    limits = {"": 700_000, "pod": 300_000, "pod/job": 500_000, "pod/job/step": "max", "other": 1000}
    for folder, quota in limits.items():
        write(root, f"sys/fs/cgroup/{folder}/cpu.max", f"{quota} 100000\n")
    assert cpus.available(root) == 3


@pytest.mark.parametrize("quota, count", [("250000", 3), ("-1", 8), ("0", 8)])
@pytest.mark.parametrize(
    "top, group, folder",
    [
        ("/", "/job", "/job"),
        ("/docker/4f2a", "/docker/4f2a", ""),  # in a container, the mount shows its own group
        ("/docker/4f2a", "/docker/4f2a/inner", "/inner"),
        ("/docker/4f2a", "/elsewhere", ""),  # a group out of sight
    ],
)
def test_a_quota_of_version_1_is_heeded(root, top, group, folder, quota, count):
    control_groups(root, V1.format(top), f"9:memory:/\n4:cpu,cpuacct:{group}\n0::/")
    write(root, f"sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_quota_us", quota + "\n")
    write(root, f"sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_period_us", "100000\n")
    assert cpus.available(root) == count


@contextlib.contextmanager
def real_group(share):
    """A control group of the running system that may use ``share`` CPUs."""
    group = f"test-alexnet-{os.getpid()}"
    period = 100_000
    for folder, limits in (
        ("/sys/fs/cgroup", {"cpu.max": f"{int(share * period)} {period}"}),
        ("/sys/fs/cgroup/cpu", {"cpu.cfs_quota_us": int(share * period)}),
    ):
        path = os.path.join(folder, group)
        try:
            os.mkdir(path)
            for name, limit in limits.items():
                with open(os.path.join(path, name), "r+") as file:
                    file.write(str(limit))
        except OSError:
            with contextlib.suppress(OSError):
                os.rmdir(path)
            continue
        try:
            yield path
        finally:
            os.rmdir(path)
        return
    pytest.skip("control groups cannot be made here")


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPUs")
def test_in_a_real_control_group_its_quota_counts():
    with real_group(share=1) as path:
        enter = f"echo $$ > {path}/cgroup.procs && exec '{sys.executable}' -c '{SHOW}'"
        done = subprocess.run(["sh", "-c", enter], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_only_the_cpus_of_this_process_count():
    pin = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    assert run_script("-c", pin + SHOW).stdout == "1\n"


@pytest.mark.parametrize("text, count", [("7", 7), ("4,2", 4), (" 3 , 1 ", 3)])
def test_openmp_threads_are_those_of_the_outermost_level(monkeypatch, text, count):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert cpus.openmp_threads() == count


@pytest.mark.parametrize("text", [None, "", "  "])
def test_without_a_number_openmp_has_all_cpus(monkeypatch, text):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if text is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert cpus.openmp_threads() == cpus.available()


@pytest.mark.parametrize("text", ["all", "0", "-2", "2.5", "4,", "4;2", "4,0"])
def test_what_is_no_number_of_threads_is_refused(monkeypatch, text):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(UserError, match=f"^OMP_NUM_THREADS={text}: is not a number of threads"):
        cpus.openmp_threads()


def test_the_scripts_refuse_it_in_one_line():
    result = run_script("train_imagenet.py", "--benchmark", "1", OMP_NUM_THREADS="all")
    assert_refused(result, "OMP_NUM_THREADS=all", "unset it")


@pytest.mark.parametrize("text", ["2,1", ""])
def test_mxnet_computes_with_what_openmp_allows(text):
    body = (
        "from common.runtime.mxnet import mx; from common.checkpoint.config import versions;"
        "import ctypes; mx.nd.ones((2, 2)).asnumpy();"
        "print(versions()['threads'], ctypes.CDLL('libgomp.so.1').omp_get_max_threads())"
    )
    count = text.partition(",")[0] or cpus.available()
    result = run_script("-c", body, OMP_NUM_THREADS=text)
    assert (result.stdout, result.stderr) == (f"{count} {count}\n", "")
