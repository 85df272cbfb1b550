"""What this machine allows: bare float32 products, reading of memory.

    python -m benchmarks.limits [--quick]

Products are numpy's (OpenBLAS), at the sizes that AlexNet's layers have at batch 32; reading is the
sum of squares of 1 GiB, which no cache holds. Each thread works on a part of its own. The best of
some rounds counts, since a limit is asked for. benchmarks/NOTES.md compares AlexNet's layers.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor

from common.io import cpus

# OpenBLAS reads these when numpy is imported. The threads are ours; and a processor newer than it
# would run its AVX2 code, which makes half as many products.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
if "avx512f" in cpus.instructions():
    os.environ["OPENBLAS_CORETYPE"] = "SkylakeX"

import numpy as np  # noqa: E402

from benchmarks import report  # noqa: E402
from common import cli  # noqa: E402

# (M, K, N) of M x K by K x N: a convolution's columns by its kernels; a batch by weights.
SIZES = {
    "square, 2048": (2048, 2048, 2048),
    "conv2, 4 images": (4 * 27 * 27, 96 * 25, 256),
    "conv3, 8 images": (8 * 13 * 13, 256 * 9, 384),
    "fc1, 32 images": (32, 9216, 4096),
}
READ = 1 << 30  # bytes


def fastest(work, parts: list, rounds: int) -> float:
    """Seconds of the fastest round of ``work`` on each of ``parts``, a thread for each."""
    seconds = []
    with ThreadPoolExecutor(len(parts)) as threads:
        for _ in range(1 + rounds):  # the first one only warms up
            start = time.perf_counter()
            list(threads.map(work, parts))
            seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def product(size: tuple, threads: int, rounds: int) -> float:
    """GFLOP/s of an (M, K) by (K, N) product; the larger of M and N is divided among threads."""
    rows, inner, columns = size
    left, right = np.ones((rows, inner), np.float32), np.ones((inner, columns), np.float32)
    if rows >= columns:
        parts = [(part, right) for part in np.array_split(left, threads)]
    else:
        parts = [(left, np.ascontiguousarray(p)) for p in np.array_split(right, threads, axis=1)]
    return 2 * rows * inner * columns / fastest(lambda pair: np.dot(*pair), parts, rounds) / 1e9


def main() -> None:
    """Measure, print, and keep the figures in this processor's file of results."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, nothing is kept")
    rounds = 1 if parser.parse_args().quick else 15
    found = {}
    memory = np.ones(READ // 4, np.float32)
    for threads in sorted({1, cpus.available()}):
        speeds = {
            f"{name}, GFLOP/s": product(size, threads, rounds) for name, size in SIZES.items()
        }
        parts = np.array_split(memory, threads)
        speeds["reading, GB/s"] = READ / fastest(lambda x: np.dot(x, x), parts, rounds) / 1e9
        found[f"{threads} threads"] = {name: round(speed, 1) for name, speed in speeds.items()}
        print(f"{threads} threads:", ", ".join(f"{name} {s:.1f}" for name, s in speeds.items()))
    if rounds > 1:
        print("written to", report.save("limits", **found))


if __name__ == "__main__":
    cli.run(main)
