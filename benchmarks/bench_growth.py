"""How AlexNet's speed at 227 grows with the batch, and with threads up to the number of cores.

    python -m benchmarks.bench_growth [--rounds 3]

Each figure is from a process of its own, and the processes of a batch take turns.
"""

from statistics import median

from benchmarks import report
from common import cli
from common.io import cpus

BATCHES = {"infer": (1, 2, 4, 8, 16, 32, 64, 128, 256), "train": (8, 16, 32, 64, 128, 256)}
IMAGES = {"infer": 512, "train": 128}  # at least so many for a figure; training takes a third


def speed(mode: str, batch: int, threads: int) -> float:
    """Images a second; the median step counts."""
    steps = max(3, min(100, IMAGES[mode] // batch))
    shape = "alexnet", batch, steps, 2
    found = report.run_worker("worker_mxnet.py", mode, "ours", *shape, threads=threads)
    return batch / median(found["seconds"])


def main() -> None:
    """Measure, print, and keep the figures in this processor's file of results."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--rounds", type=cli.positive_int, default=3, metavar="N")
    rounds = parser.parse_args().rounds
    numbers = sorted({1, cpus.available()})
    found: dict = {}
    for mode, batches in BATCHES.items():
        for batch in batches:
            speeds: dict = {f"{threads} threads": [] for threads in numbers}
            for _ in range(rounds):
                for threads in numbers:
                    speeds[f"{threads} threads"].append(round(speed(mode, batch, threads), 1))
            found.setdefault(mode, {})[str(batch)] = speeds
            print(f"{mode}, batch {batch}:", speeds, flush=True)
    print("written to", report.save("growth", img_per_s=found))


if __name__ == "__main__":
    cli.run(main)
