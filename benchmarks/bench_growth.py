"""How speed, memory and starting time grow: with the batch in training, with the records in a file.

    python benchmarks/bench_growth.py
    python benchmarks/bench_growth.py --batches 1,32 --records 128117

Training: AlexNet at 227 as train_imagenet.py trains it, one process a batch size. Reading: files of
small records, the largest with as many as ImageNet has; written to a temporary folder (in all
0.7 GB), then in a process of its own ``scan_records`` checks the file and MXNet's ImageRecordIter
makes its first shuffled batch. Peak MiB counts what of the file is mapped, too. The file is in
memory by then: how long a disk takes is another question. Sizes take turns. Prints two tables and
writes benchmarks/results/growth.json.
"""

import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import cv2
import numpy as np
import report

from common import cli
from common.records.index import index_path
from common.records.scan import scan_records
from common.records.writer import create_records

BATCHES = [1, 2, 4, 8, 16, 32, 64, 128, 256]
RECORDS = [12811, 128116, 1281167]
READ_BATCH = 128


def train(batch_size: int) -> dict:
    """Seconds of each step and the peak in MiB, from worker_mxnet.py.

    Raises:
        UserError: it failed, for want of memory perhaps.
    """
    steps = max(3, 32 // batch_size)
    return report.run_worker("worker_mxnet.py", "train", "ours", "alexnet", batch_size, steps)


def read(path: str) -> dict:
    """Seconds and peaks in MiB: after the imports, of the check, of the first batch."""
    from common.runtime.mxnet import mx

    figures = {"start_mib": _peak_mib()}
    clock = time.perf_counter()
    scan_records(path)
    figures["scan_s"] = time.perf_counter() - clock
    figures["scan_mib"] = _peak_mib()
    clock = time.perf_counter()
    batches = mx.io.ImageRecordIter(
        path_imgrec=path,
        path_imgidx=index_path(path),
        data_shape=(3, 67, 67),
        batch_size=READ_BATCH,
        shuffle=True,
        verbose=False,
    )
    batches.next().data[0].wait_to_read()
    figures["batch_s"] = time.perf_counter() - clock
    figures["batch_mib"] = _peak_mib()
    return figures


def _peak_mib():
    # Not getrusage: its peak begins with that of the process that started this one.
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def in_new_process(function, *arguments):
    """The result of ``function``; an error where the process dies."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def make_records(path: str, count: int) -> None:
    """Write ``count`` records of one small JPEG in 1,000 classes."""
    ramp = np.linspace(0, 255, 32 * 32).astype(np.uint8).reshape(32, 32)
    picture = cv2.imencode(".jpg", ramp)[1].tobytes()
    with create_records(os.path.splitext(path)[0]) as writer:
        for i in range(count):
            writer.write(i % 1000, picture)


def grow(measure, sizes: list, rounds: int) -> dict:
    """``measure(size)`` for each size, ``rounds`` times, turn about; a list by size."""
    found = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            found[size].append(measure(size))
    return found


def grow_training(batches: list, rounds: int) -> dict:
    """Print the table of training; return its figures by batch size."""
    found = grow(train, batches, rounds)
    print(f"train, alexnet, {rounds} rounds")
    print(f"{'batch':>9}{'img/s':>9}{'min':>9}{'max':>9}{'ms/step':>9}{'peak MiB':>10}")
    for size, runs in found.items():
        middles = sorted(statistics.median(run["seconds"]) for run in runs)
        middle = statistics.median(middles)
        print(
            f"{size:9}{size / middle:9.1f}{size / middles[-1]:9.1f}{size / middles[0]:9.1f}"
            f"{middle * 1000:9.0f}{max(run['peak_mib'] for run in runs):10.0f}"
        )
    return found


def grow_reading(counts: list, rounds: int) -> dict:
    """Print the table of reading; return its figures by number of records."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {count: os.path.join(folder, f"{count}.rec") for count in counts}
        for count, path in paths.items():
            make_records(path, count)
        sizes = {count: os.path.getsize(path) / 2**20 for count, path in paths.items()}
        found = grow(lambda count: in_new_process(read, paths[count]), counts, rounds)
    print(f"\nread, {rounds} rounds; file in MiB, medians of seconds, highest peaks")
    columns = ["scan_s", "batch_s", "start_mib", "scan_mib", "batch_mib"]
    print(f"{'records':>9}{'file':>7}", *(f"{column:>10}" for column in columns))
    for count, runs in found.items():
        seconds = [statistics.median(run[key] for run in runs) for key in columns[:2]]
        peaks = [max(run[key] for run in runs) for key in columns[2:]]
        print(f"{count:9}{sizes[count]:7.0f}", *(f"{value:10.2f}" for value in seconds), end=" ")
        print(*(f"{value:10.0f}" for value in peaks))
    return found


def main() -> None:
    """Measure, print, save."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--batches", type=cli.integers, default=BATCHES, help="batch sizes")
    parser.add_argument("--records", type=cli.integers, default=RECORDS, help="records in a file")
    parser.add_argument("--rounds", type=cli.positive_int, default=3)
    args = parser.parse_args()
    if min(args.batches) < 1:
        raise cli.UserError("--batches: must be at least 1")
    if min(args.records) < READ_BATCH:
        raise cli.UserError(f"--records: must be at least a batch, {READ_BATCH}")
    figures = {
        "training": grow_training(args.batches, args.rounds),
        "reading": grow_reading(args.records, args.rounds),
    }
    print("written to", report.save("growth", **figures))


if __name__ == "__main__":
    cli.run(main)
