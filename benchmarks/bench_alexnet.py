"""Is this the fastest AlexNet on a CPU? Training and inference against MXNet's own and its peers.

    make bench            or   python benchmarks/bench_alexnet.py --peers .venv-bench/bin/python

Every measurement is a process of its own; the contestants take turns, so that a machine whose
speed drifts treats all alike. Printed are the median over rounds of each round's median step, the
range, and our speed over theirs. A JSON file in benchmarks/results/ keeps all figures.
"""

import os
import statistics
import subprocess
import sys

import report

from common import cli

# mode, network, batch size, steps, contestants; the first is ours.
CASES = [
    ("train", "alexnet", 32, 8, ["ours", "stock", "nchw", "channels_last"]),
    ("train", "alexnet", 128, 4, ["ours", "stock", "nchw", "channels_last"]),
    ("train", "alexnet2012", 128, 4, ["ours", "nchw", "channels_last"]),
    ("infer", "alexnet", 32, 12, ["ours", "nchw", "channels_last", "onnxruntime", "openvino"]),
    ("infer", "alexnet", 1, 100, ["ours", "nchw", "channels_last", "onnxruntime", "openvino"]),
    ("infer", "alexnet", 32, 12, ["int8", "ours"]),
]
NAMES = {
    "ours": "this project",
    "int8": "this project, int8",
    "stock": "stock MXNet",
    "nchw": "PyTorch, NCHW",
    "channels_last": "PyTorch, channels last",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO, f32",
}


def main():
    """Run the cases and print a table for each."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--peers", default=".venv-bench/bin/python", help="Python that has them")
    parser.add_argument("--rounds", type=cli.positive_int, default=3)
    parser.add_argument("--cases", type=cli.integers, help="such as 0,3; default: all")
    args = parser.parse_args()
    if not os.path.exists(args.peers):
        raise cli.UserError(f"--peers {args.peers}: not found; make bench makes it")
    numbers = args.cases or range(len(CASES))
    if not set(numbers) <= set(range(len(CASES))):
        raise cli.UserError(f"--cases: are 0 to {len(CASES) - 1}")
    cases = [_run(CASES[number], args) for number in numbers]
    print("written to", report.save("alexnet", versions=_versions(args.peers), cases=cases))


def _versions(peers):
    show = "import sys; from importlib.metadata import version as v; "
    show += "print(*(f'{name} {v(name)}' for name in sys.argv[1:]), sep='\\n')"
    ours = [sys.executable, "-c", show, "mxnet", "numpy"]
    theirs = [peers, "-c", show, "torch", "onnxruntime", "openvino"]
    return [subprocess.check_output(c, text=True).splitlines() for c in (ours, theirs)]


def _run(case, args):
    mode, network, batch_size, steps, contestants = case
    rounds = {name: [] for name in contestants}
    for _ in range(args.rounds):
        for name in contestants:
            rounds[name].append(_measure(name, args.peers, case))
    print(f"\n{mode}, {network}, batch {batch_size}, {args.rounds} rounds of {steps} steps")
    print(f"{'':24}{'img/s':>8}{'min':>8}{'max':>8}{'ours/theirs':>13}{'p99 ms':>9}{'MiB':>7}")
    middle = {n: [statistics.median(r["seconds"]) for r in rs] for n, rs in rounds.items()}
    ours = statistics.median(middle[contestants[0]])
    for name in contestants:
        typical = statistics.median(middle[name])
        speeds = sorted(batch_size / seconds for seconds in middle[name])
        every = sorted(s for r in rounds[name] for s in r["seconds"])
        p99 = every[min(len(every) - 1, int(0.99 * len(every)))] * 1000
        peak = max(r["peak_mib"] for r in rounds[name])
        print(
            f"{NAMES[name]:24}{batch_size / typical:8.1f}{speeds[0]:8.1f}{speeds[-1]:8.1f}"
            f"{typical / ours:13.2f}{p99:9.1f}{peak:7.0f}",
            flush=True,
        )
    return {"mode": mode, "network": network, "batch": batch_size, "rounds": rounds}


def _measure(name, peers, case):
    mode, network, batch_size, steps, _ = case
    own = name in ("ours", "int8", "stock")
    script = "worker_mxnet.py" if own else "worker_torch.py"
    python = sys.executable if own else peers
    return report.run_worker(script, mode, name, network, batch_size, steps, python=python)


if __name__ == "__main__":
    cli.run(main)
