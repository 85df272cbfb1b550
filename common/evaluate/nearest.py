"""The training pictures that lie nearest to a picture in the features of a layer.

The figure 4, right, of the AlexNet paper: distances between the outputs of the last hidden layer.
The features of all training pictures are an index: X.npy, (images, features) float16, and X.json,
which says of which checkpoint, records and preparation they are.
"""

import dataclasses
import json
import os
from typing import List, NamedTuple, Tuple

import numpy as np

from common.checkpoint import store
from common.cli import UserError
from common.input import pipeline
from common.io import cpus
from common.io.files import atomic, read_json, sha256, write_json
from common.io.log import Progress, RunLog
from common.records.checksums import checksums_path
from common.records.identity import record_files, records_fingerprint
from common.records.scan import Records

from .classifier import Classifier

_LARGEST = np.finfo(np.float16).max  # larger features are taken for it
_ROWS = 1024  # of the index that are compared at a time
_PERIOD = 20  # batches between two lines of progress


class Source(NamedTuple):
    """What an index is made from."""

    prefix: str
    epoch: int
    layer: str
    records: Records

    def identity(self, classifier: Classifier) -> dict:
        """What has to be the same for an index to be used, as JSON gives it back."""
        identity = {
            "params": sha256(store.params_path(self.prefix, self.epoch)),
            "symbol": sha256(f"{self.prefix}-symbol.json"),
            "layer": self.layer,
            "records": records_fingerprint(self.records.path),
            "checksums": _checksums(self.records.path),
            "images": len(self.records),
            "preparation": dataclasses.asdict(classifier.preparation),
        }
        return json.loads(json.dumps(identity))


def _checksums(path):
    """Of each file's records, whose fingerprint leaves out those in the middle."""
    files = [(checksums_path(file), file) for file in record_files(path)]
    return [sha256(sums if os.path.exists(sums) else file) for sums, file in files]


def default_path(prefix: str, epoch: int, layer: str) -> str:
    """Where the index of a checkpoint is, unless the user says otherwise."""
    return f"{prefix}-{epoch:04d}-{layer}-index.npy"


def open_index(path: str, source: Source, classifier: Classifier) -> np.ndarray:
    """The features of all pictures, (images, features) float16, read from ``path`` as needed.

    They are computed and written there if there is no such file. UserError if the index is damaged,
    or of another checkpoint or other records.
    """
    record, identity = f"{os.path.splitext(path)[0]}.json", source.identity(classifier)
    if not os.path.exists(record) and not os.path.exists(path):
        _build(path, record, identity, source, classifier)
    remedy = f"delete {path} and {record}, then it is made anew, or give another --index"
    try:
        found = read_json(record, remedy)
    except FileNotFoundError:
        raise UserError(f"{record}: not found beside {path}; {remedy}")
    whole = os.path.isfile(path) and found.pop("features", None) == sha256(path)
    if not whole:
        raise UserError(f"{path}: is missing or damaged; {remedy}")
    if found != identity:
        other = ", ".join(key for key in identity if found.get(key) != identity[key])
        raise UserError(f"{path}: is the index of other things ({other}); {remedy}")
    return np.load(path, mmap_mode="r")


def _build(path, record, identity, source, classifier):
    count = len(source.records)
    with atomic(record, path) as (record_file, features_file):
        with open(features_file, "wb") as file:
            for i, rows in enumerate(_features(source, classifier)):
                if i == 0:
                    shape = {"descr": "<f2", "fortran_order": False}
                    shape["shape"] = (count, rows.shape[1])
                    np.lib.format.write_array_header_1_0(file, shape)
                file.write(rows.tobytes())
        write_json(record_file, {**identity, "features": sha256(features_file)})


def _features(source, classifier):
    """(batch, features) float16 of all pictures, in order."""
    records, layer, size = source.records, source.layer, classifier.batch_size
    preparation, threads = classifier.preparation, cpus.available()
    batches = pipeline.evaluation_batches(records, preparation, size, threads)
    with Progress(RunLog(), f"indexing {layer}", len(records), _PERIOD) as progress:
        for batch, count in batches:
            images = batch.data[0].asnumpy()[:count]
            rows = np.array(list(classifier.outputs(images, layer)), np.float32)
            rows = rows.reshape(count, -1).clip(-_LARGEST, _LARGEST).astype("<f2")
            progress.update(count)
            yield rows


def nearest(index: np.ndarray, features: np.ndarray, count: int) -> List[Tuple[int, float]]:
    """The rows of the index that are nearest to ``features``: (row, distance), nearest first.

    The distance is Euclidean.
    """
    features, squares = features.reshape(-1).astype(np.float32), np.empty(len(index), np.float32)
    for start in range(0, len(index), _ROWS):
        rows = slice(start, start + _ROWS)
        apart = index[rows].astype(np.float32) - features
        squares[rows] = np.einsum("nf,nf->n", apart, apart)
    best = np.argsort(squares, kind="stable")[:count]
    return [(int(i), float(squares[i]) ** 0.5) for i in best]
