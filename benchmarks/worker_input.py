"""This project's reading, for bench_input.py: prints a JSON line.

    python benchmarks/worker_input.py mxnet|dali FOLDER EPOCHS THREADS

It reads FOLDER/photos.rec as train_imagenet.py does with the ImageNet recipe.
"""

import itertools
import json
import os
import resource
import sys
import time

from common import cli
from common.input import flags, pipeline
from common.input.training_data import TrainingData
from common.records.scan import scan_records
from common.runtime.mxnet import mx
from common.train import recipes


def main():
    """Read an epoch to warm up, then time some."""
    backend, folder, epochs, threads = sys.argv[1:]
    parser = cli.ArgumentParser()
    flags.add_data_args(parser)
    parser.set_defaults(**recipes.recipe("alexnet", "imagenet").settings)
    parser.set_defaults(data_train=os.path.join(folder, "photos.rec"), seed=0, accumulate=1)
    args = parser.parse_args([f"--data-backend={backend}", f"--data-nthreads={threads}"])
    flags.check_data_args(args)
    data = TrainingData.from_args(args, scan_records(args.data_train))
    batches = pipeline.training_iterator(data, mx.cpu())
    steps = data.images // data.batch_size
    _read(batches, steps)
    start, used = time.perf_counter(), _cpu()
    images = _read(batches, steps * int(epochs))
    taken, using = time.perf_counter() - start, _cpu()
    figures = {"img_per_s": images / taken, "cpu_ms": (using - used) / images * 1000}
    print(json.dumps(figures))


def _read(batches, steps):
    images = 0
    for batch in itertools.islice(batches, steps):
        batch.data[0].wait_to_read()
        images += len(batch.label[0])
    return images


def _cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
