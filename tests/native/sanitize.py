"""native/ under GCC's sanitizers: each operator at awkward shapes, in all variants there are here.

    python tests/native/sanitize.py      (make sanitize)

AddressSanitizer and UndefinedBehaviorSanitizer run with OpenMP, and once more with each allocation
failing. ThreadSanitizer runs on plain threads (native/parallel.h): it cannot see how GCC's OpenMP
synchronises, so there it would report each region. What it proves is that the shares of the threads
are disjoint, not that OpenMP starts and ends its regions rightly.
"""

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec

HERE = os.path.dirname(os.path.abspath(__file__))
DRIVER = os.path.join(HERE, "driver.cc")
PLAIN = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
STRICT = ["-O1", "-fopenmp", "-fno-sanitize-recover=all"]
BUILDS = {
    "address,undefined": STRICT,
    "address,undefined; emulated AMX": [*STRICT, "-include", os.path.join(HERE, "amx_emulator.h")],
    "thread": ["-O1"],
}
VARIANTS = {"ALL": ["AVX-512", "AVX2", "baseline"], "AVX2": ["AVX2", "baseline"],
            "SSE41": ["baseline"]}  # fmt: skip


def compile_driver(path: str, *flags: str) -> subprocess.Popen:
    """Start to build the driver, with MXNet's own source of the interface, as ``path``."""
    package = os.path.dirname(find_spec("mxnet").origin)
    command = [os.environ.get("CXX", "g++"), "-std=c++11", "-w", "-g1", *PLAIN, *flags,
               f"-I{package}/include", "-o", path, DRIVER, f"{package}/src/lib_api.cc"]  # fmt: skip
    return subprocess.Popen(command)


def run_driver(path: str, *arguments: str, **environment: str) -> str:
    """What it prints; ends this process with its exit code if it finds a fault."""
    # MXNet's registry of operators and its messages are never freed.
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", **environment}
    done = subprocess.run([path, *arguments], env=environment, stdout=subprocess.PIPE, text=True)
    faults = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if done.returncode:
        sys.exit("\n".join([*faults, f"{os.path.basename(path)}: exit code {done.returncode}"]))
    return done.stdout


def variants(path: str) -> dict:
    """{variant: what the driver prints}, of each variant that this machine can run."""
    found = {}
    for isa in VARIANTS:
        said = run_driver(path, DNNL_MAX_CPU_ISA=isa)
        first, _, rest = said.partition("\n")
        name = first.partition(": ")[2]
        assert name in VARIANTS[isa], f"DNNL_MAX_CPU_ISA={isa} chooses {name}"
        found[name] = rest
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = {title: os.path.join(folder, str(i)) for i, title in enumerate(BUILDS)}
        jobs = [
            compile_driver(paths[title], f"-fsanitize={title.partition(';')[0]}", *flags)
            for title, flags in BUILDS.items()
        ]
        codes = [job.wait() for job in jobs]
        if any(codes):
            sys.exit("the driver does not compile")
        for title, path in paths.items():
            for name, said in variants(path).items():
                print(f"{title}: {name}: {said.count(chr(10))} cases", flush=True)
        for title in list(BUILDS)[:2]:
            said = run_driver(paths[title], "allocations")
            failed = sum(int(line.split()[0]) for line in said.splitlines()[1:])
            print(f"{title}: {failed} failing allocations are reported", flush=True)


if __name__ == "__main__":
    main()
