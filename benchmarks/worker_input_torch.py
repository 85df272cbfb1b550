"""What reading is compared with, for bench_input.py: prints a JSON line. Needs the peers' Python.

    python benchmarks/worker_input_torch.py dataloader|bare FOLDER EPOCHS WORKERS REPEATS

"dataloader" is PyTorch's, with PIL and numpy and the ImageNet recipe's augmentation; "bare" only
decodes, with libjpeg-turbo in threads. An epoch has each image REPEATS times.
"""

import glob
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import simplejpeg
import torch
from PIL import Image

SIDE, BATCH = 227, 128
MEAN = np.float32([123.68, 116.779, 103.939])
EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
EIGENVALUES = np.array([55.46, 4.794, 1.148])


class Photos(torch.utils.data.Dataset):
    """The JPEGs of ``paths``, augmented: ((3, 227, 227) float32, a label)."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        # numpy's global generator is the same in every worker: PyTorch's, seeded apart, draws.
        draws = torch.rand(3).tolist()
        with Image.open(self.paths[index]) as image:
            width, height = image.size
            left, top = (int(u * (n - SIDE + 1)) for u, n in zip(draws, (width, height)))
            crop = np.asarray(image.convert("RGB").crop((left, top, left + SIDE, top + SIDE)))
        if draws[2] < 0.5:
            crop = crop[:, ::-1]
        lighting = EIGENVECTORS @ (torch.randn(3).numpy() * 0.1 * EIGENVALUES)
        normalised = crop - np.float32(MEAN - lighting)
        return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1))), index % 1000


def main():
    """Read an epoch to warm up, then time some."""
    kind, folder, epochs, workers, repeats = sys.argv[1:]
    paths = sorted(glob.glob(os.path.join(folder, "*.jpg"))) * int(repeats)
    read = {"dataloader": dataloader, "bare": bare}[kind](paths, int(workers))
    read()
    start, used = time.perf_counter(), _cpu()
    images = sum(read() for _ in range(int(epochs)))
    taken, using = time.perf_counter() - start, _cpu()
    print(json.dumps({"img_per_s": images / taken, "cpu_ms": (using - used) / images * 1000}))


def dataloader(paths, workers):
    """A function that reads an epoch and returns its number of images."""
    loader = torch.utils.data.DataLoader(
        Photos(paths), BATCH, shuffle=True, num_workers=workers, persistent_workers=True
    )
    return lambda: sum(len(images) for images, _ in loader)


def bare(paths, workers):
    """The same, decoding only."""
    pool = ThreadPoolExecutor(workers)

    def decode(path):
        with open(path, "rb") as file:
            return simplejpeg.decode_jpeg(file.read()).shape[0] > 0

    return lambda: sum(pool.map(decode, paths))


def _cpu():
    """Seconds of processor time of this process and its children, which live on."""
    ticks = os.sysconf("SC_CLK_TCK")
    total = 0
    for pid in [os.getpid(), *_children()]:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / ticks


def _children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()


if __name__ == "__main__":
    main()
