"""What several contexts and workers cost on one machine: time and bytes a step, beside one process.

    python -m benchmarks.bench_scaling
    python -m benchmarks.bench_scaling --batches 4 --batch-size 8 --rounds 1    # quick

Each trains AlexNet at 227 on synthetic images, the same batch divided among its workers or CPU
contexts. All share the cores, so none can be faster than one process: what is more is the cost of
communication, and of smaller parts of a batch. Bytes are those of the loopback interface: leave no
other program that uses it running. Medians over the batches of all rounds. It prints a table, and
writes ``scaling`` into benchmarks/results.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, Tuple

from common import cli
from common.cli import UserError
from common.io.children import ROOT, as_child

from . import report

DIST = ["--kv-store", "dist_sync"]
COLUMNS = ["--network", "alexnet2012"]
CASES = {  # workers, 0 without launch.py; flags
    "one process": (0, []),
    "2 CPU contexts": (0, ["--cpus", "2"]),
    "1 worker": (1, DIST),
    "2 workers": (2, DIST),
    "2 workers, 2-bit": (2, [*DIST, "--gc-type", "2bit"]),
    "2 workers, dist_async": (2, ["--kv-store", "dist_async"]),
    "alexnet2012": (0, COLUMNS),
    "alexnet2012, 2 columns": (0, [*COLUMNS, "--cpus", "2", "--model-parallel"]),
}
WARM_UP = 2  # batches that do not count


def measure(workers: int, flags: List[str], batches: int, batch_size: int) -> List[List[float]]:
    """Seconds and bytes of each batch but the first ones.

    Raises:
        UserError: training failed.
    """
    train = [f"{ROOT}/train_imagenet.py", "--benchmark", "1", "--disp-batches", "1", *flags]
    train += ["--batch-size", str(batch_size), "--num-examples", str(batches * batch_size)]
    train += ["--num-epochs", "1", "--warmup-epochs", "0"]
    with tempfile.TemporaryDirectory() as folder:
        launch = [f"{ROOT}/launch.py", "-n", str(workers), "--log-dir", folder, "--"]
        command = [sys.executable, *(launch if workers else []), *train]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **as_child())
        seen = [
            (time.perf_counter(), loopback_bytes())
            for line in process.stdout
            if re.search(r"epoch 1/1  \d+/", line)
        ]
        if process.wait():
            raise UserError(f"{' '.join(command)}: exit code {process.returncode}")
    pairs = list(zip(seen, seen[1:]))[WARM_UP - 1 :]
    return [[after - before for before, after in zip(*pair)] for pair in pairs]


def loopback_bytes() -> int:
    """What the loopback interface has carried so far."""
    with open(os.path.join("/proc", "net", "dev")) as file:
        return int(re.search(r"^ *lo: *(\d+)", file.read(), re.MULTILINE)[1])


def main() -> None:
    """Time each case once a round."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--batches", type=cli.number(int, least=WARM_UP + 1), default=10)
    parser.add_argument("--batch-size", type=cli.number(int, least=2), default=32)
    parser.add_argument("--rounds", type=cli.positive_int, default=3)
    args = parser.parse_args()
    steps = {name: [] for name in CASES}
    for _ in range(args.rounds):
        for name, case in CASES.items():
            steps[name] += measure(*case, args.batches, args.batch_size)
    medians = {name: tuple(map(statistics.median, zip(*own))) for name, own in steps.items()}
    print_table(medians)
    print(f"written to {report.save('scaling', batch_size=args.batch_size, steps=steps)}")


def print_table(medians: Dict[str, Tuple[float, ...]]) -> None:
    """Each case's time, alone and in those of one process, and its bytes."""
    alone, _ = medians["one process"]
    print(f"{'':24}{'ms a step':>12}{'times':>8}{'MB a step':>12}")
    for name, (seconds, sent) in medians.items():
        print(f"{name:24}{seconds * 1000:12.0f}{seconds / alone:8.2f}{sent / 1e6:12.1f}")


if __name__ == "__main__":
    cli.run(main)
