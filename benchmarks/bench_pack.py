"""Is data.folder at least as fast as the im2rec.py that MXNet ships, with as many processes?

    python -m benchmarks.bench_pack --workers 2

Both pack the same made-up photos with the same short side and quality, each run in a process of
its own, turn about. im2rec.py's list of files is made beforehand and not timed; data.folder reads
the tree itself. A run is timed whole. "less start" leaves out what a run of 32 images takes: the
speed that a large data set sees. The processors' time is the steadier figure where other programs
run beside. Prints a table and keeps the figures in benchmarks/results/.
"""

import argparse
import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

from benchmarks import report
from common.cli import ArgumentParser, UserError, positive_int, run
from common.io import cpus
from common.records.scan import scan_records

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLASSES, FEW = 4, 32
PARTS = "whole", "less start"
# im2rec.py imports mxnet, which needs help on new numpy.
IM2REC = (
    "import sys, runpy, prepare_mxnet; sys.argv = sys.argv[1:];"
    " runpy.run_path(sys.argv[0], run_name='__main__')"
)


def photo(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A made-up photo, (height, width, 3) uint8: noise as strong at every scale, and shapes.

    Natural pictures have about as much contrast at each scale, which sets how long a JPEG decodes.
    """
    picture = np.full((height, width, 3), 128, np.float32)
    for octave in range(1, 8):
        small = rng.normal(0, 20, (1 + (height >> octave), 1 + (width >> octave), 3))
        picture += cv2.resize(
            small.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
    for _ in range(8):
        centre = tuple(int(value) for value in rng.integers(0, (width, height)))
        colour = tuple(float(value) for value in rng.integers(0, 256, 3))
        cv2.circle(picture, centre, int(rng.integers(5, height // 4)), colour, -1, cv2.LINE_AA)
    return np.clip(picture, 0, 255).astype(np.uint8)


def make_photos(folder: str, count: int, width: int, height: int) -> int:
    """Write ``count`` JPEGs below class folders; return their mean size in bytes."""
    rng, sizes = np.random.default_rng(0), []
    for i in range(count):
        path = os.path.join(folder, f"class{i % CLASSES}", f"{i:05d}.jpg")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        cv2.imwrite(path, photo(rng, width, height), [cv2.IMWRITE_JPEG_QUALITY, 95])
        sizes.append(os.path.getsize(path))
    return round(statistics.mean(sizes))


def im2rec(*arguments) -> None:
    """Run MXNet's im2rec.py."""
    package = os.path.dirname(importlib.util.find_spec("mxnet").origin)
    script = os.path.join(package, "tools", "im2rec.py")
    _python("-c", IM2REC, script, *arguments)


def pack_im2rec(tree: str, work: str, args: argparse.Namespace) -> str:
    """Pack ``tree`` with im2rec.py; return the prefix."""
    prefix = os.path.join(work, "list")
    flags = f"--resize {args.resize} --quality {args.quality} --num-thread {args.workers}"
    im2rec(prefix, tree, *flags.split())
    return prefix


def pack_folder(tree: str, work: str, args: argparse.Namespace) -> str:
    """Pack ``tree`` with data.folder; return the prefix."""
    prefix = os.path.join(work, "folder")
    flags = f"--resize {args.resize} --quality {args.quality} --workers {args.workers} --overwrite"
    _python("-m", "data.folder", tree, prefix, *flags.split())
    return prefix


PACKERS = {"im2rec.py": pack_im2rec, "data.folder": pack_folder}


def _python(*arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise UserError(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stdout[-500:]}")


def timed(packer, tree: str, work: str, args: argparse.Namespace, count: int) -> np.ndarray:
    """Seconds on the clock and on the processors of one run, which must write ``count`` records."""
    clock, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    prefix = packer(tree, work, args)
    taken, using = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_CHILDREN)
    written = len(scan_records(f"{prefix}.rec"))
    if written != count:
        raise UserError(f"{prefix}.rec: {written} records in place of {count}")
    busy = using.ru_utime + using.ru_stime - used.ru_utime - used.ru_stime
    return np.array([taken, busy])


def measure(folder: str, args: argparse.Namespace) -> dict:
    """Run every packer ``args.rounds`` times, turn about.

    Returns the photos' mean size in bytes and, for each packer, whole and less its start: images a
    second on the clock and processor milliseconds an image, a list of ``rounds`` values each.
    """
    sizes = {"few": FEW, "all": args.images}
    trees = {name: os.path.join(folder, name, "tree") for name in sizes}
    for name, count in sizes.items():
        mean = make_photos(trees[name], count, *args.size)
        im2rec(os.path.join(folder, name, "list"), trees[name], "--list", "--recursive")
    found = {
        f"{name}, {part}": {"img_per_s": [], "cpu_ms": []} for part in PARTS for name in PACKERS
    }
    for _ in range(args.rounds):
        for name, packer in PACKERS.items():
            few, everything = (
                timed(packer, trees[kind], os.path.join(folder, kind), args, sizes[kind])
                for kind in sizes
            )
            for part, (clock, busy), count in (
                (PARTS[0], everything, args.images),
                (PARTS[1], everything - few, args.images - FEW),
            ):
                found[f"{name}, {part}"]["img_per_s"].append(count / clock)
                found[f"{name}, {part}"]["cpu_ms"].append(busy / count * 1000)
    return {"mean_bytes": mean, "packers": found}


def show(found: dict) -> None:
    """Print the table; the ratios are data.folder's speed over im2rec.py's, from the medians."""
    print(f"{'':26}{'img/s':>8}{'min':>8}{'max':>8}{'ratio':>8}{'CPU ms':>8}{'ratio':>8}")
    for title, values in found.items():
        base = found[title.replace("data.folder", "im2rec.py")]
        speed, cpu = (statistics.median(values[key]) for key in ("img_per_s", "cpu_ms"))
        faster = speed / statistics.median(base["img_per_s"])
        lighter = statistics.median(base["cpu_ms"]) / cpu
        low, high = min(values["img_per_s"]), max(values["img_per_s"])
        print(f"{title:26}{speed:8.0f}{low:8.0f}{high:8.0f}{faster:8.2f}{cpu:8.2f}{lighter:8.2f}")


def _size(text):
    width, height = (int(part) for part in text.split("x"))
    return width, height


def main() -> None:
    """Measure, print, save."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--images", type=positive_int, default=600, help="well above 32")
    parser.add_argument("--size", type=_size, default=(500, 375), help="WIDTHxHEIGHT of the photos")
    parser.add_argument("--resize", type=positive_int, default=256, help="short side")
    parser.add_argument("--quality", type=positive_int, default=95, help="of JPEG")
    parser.add_argument("--workers", type=positive_int, default=cpus.available(), help="processes")
    parser.add_argument("--rounds", type=positive_int, default=5, help="runs of each packer")
    args = parser.parse_args()
    if args.images <= 2 * FEW:
        raise UserError(f"--images {args.images}: takes more than {2 * FEW}")
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(folder, args)
    show(measured["packers"])
    print("written to", report.save("pack", settings=vars(args), **measured))


if __name__ == "__main__":
    run(main)
