"""How fast are training images read? ImageRecordIter and DALI against PyTorch and bare decoding.

    python -m benchmarks.bench_input --peers .venv-bench/bin/python

All read the same JPEGs (short side 256, quality 95, made up as for bench_pack.py) and do what the
ImageNet recipe does: random crop of 227, mirror, lighting, normalisation, batches of 128. PyTorch's
DataLoader does it with PIL and numpy, in as many workers as there are cores; "bare decoding" is
libjpeg-turbo in as many threads and no more than that. An epoch has each image ten times, so that
what is done at its start weighs little, as with a large file. Every measurement is a process of
its own and they take turns. The images lie in the page cache: a disk's speed is not measured. The
speeds are of whole epochs after a first one. CPU ms, the processors' time for an image, is the
steadier figure where other programs run beside. Prints a table and keeps
the figures in benchmarks/results/.
"""

import os
import statistics
import sys
import tempfile

import cv2
import numpy as np

from benchmarks import bench_pack, report
from common import cli
from common.input import dali
from common.io import cpus
from common.records.writer import create_records

REPEATS = 10  # of each image in an epoch
SIZES = (341, 256), (256, 341), (384, 256), (256, 256)
NAMES = {
    "mxnet": "this project, ImageRecordIter",
    "dali": "this project, DALI",
    "dataloader": "PyTorch DataLoader",
    "bare": "bare decoding",
}


def main() -> None:
    """Measure, print, save."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--peers", default=".venv-bench/bin/python", help="Python that has them")
    parser.add_argument("--images", type=cli.positive_int, default=1280)
    parser.add_argument("--epochs", type=cli.positive_int, default=1, help="timed in each run")
    parser.add_argument("--rounds", type=cli.positive_int, default=3)
    args = parser.parse_args()
    if not os.path.exists(args.peers):
        raise cli.UserError(f"--peers {args.peers}: not found; make bench makes it")
    contestants = list(NAMES)
    if not dali.is_installed():
        print("without DALI: it is not installed (pip install '.[dali]')")
        contestants.remove("dali")
    rounds = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory() as folder:
        mean_bytes = make_photos(folder, args.images)
        for _ in range(args.rounds):
            for name in contestants:
                rounds[name].append(measure(name, folder, args))
    print(f"{args.images} JPEGs of {mean_bytes} bytes, {cpus.available()} cores")
    show(rounds)
    settings = dict(vars(args), mean_bytes=mean_bytes)
    print("written to", report.save("input", settings=settings, rounds=rounds))


def make_photos(folder: str, count: int) -> int:
    """Write ``count`` JPEGs and photos.rec, an epoch of them; return their mean size."""
    rng, photos = np.random.default_rng(0), []
    for i in range(count):
        picture = bench_pack.photo(rng, *SIZES[i % len(SIZES)])
        photos.append(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
        with open(os.path.join(folder, f"{i:05d}.jpg"), "wb") as file:
            file.write(photos[-1])
    with create_records(os.path.join(folder, "photos")) as writer:
        for i, encoded in enumerate(photos * REPEATS):
            writer.write(i % count % 1000, encoded)
    return round(statistics.mean(map(len, photos)))


def measure(name: str, folder: str, args) -> dict:
    """One contestant's images a second and processor milliseconds an image, in a process."""
    own = name in ("mxnet", "dali")
    script = "worker_input.py" if own else "worker_input_torch.py"
    python = sys.executable if own else args.peers
    repeats = [] if own else [REPEATS]
    arguments = name, folder, args.epochs, cpus.available(), *repeats
    return report.run_worker(script, *arguments, python=python)


def show(rounds: dict) -> None:
    """Print the table; ratios are of medians."""
    print(f"{'':32}{'img/s':>8}{'min':>8}{'max':>8}{'/ loader':>10}{'/ bare':>8}{'CPU ms':>8}")
    middle = {n: statistics.median(r["img_per_s"] for r in rs) for n, rs in rounds.items()}
    for name, measured in rounds.items():
        speeds = [r["img_per_s"] for r in measured]
        cpu = statistics.median(r["cpu_ms"] for r in measured)
        print(
            f"{NAMES[name]:32}{middle[name]:8.0f}{min(speeds):8.0f}{max(speeds):8.0f}"
            f"{middle[name] / middle['dataloader']:10.2f}{middle[name] / middle['bare']:8.2f}"
            f"{cpu:8.2f}"
        )


if __name__ == "__main__":
    cli.run(main)
