"""The training pictures that lie nearest to a picture in the features of a layer.

The figure 4, right, of the AlexNet paper: distances between the outputs of the last hidden layer.
The features of all training pictures are an index: X.npy, (images, features) float16, and X.json,
which says of which checkpoint, records and preparation they are.
"""

import dataclasses
import json
import os
from typing import List, Optional, Tuple

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


def _identity(classifier, layer, records):
    """What has to be the same for an index to be used, as JSON gives it back."""
    identity = {
        "params": sha256(store.params_path(*classifier.checkpoint)),
        "symbol": sha256(f"{classifier.checkpoint[0]}-symbol.json"),
        "layer": layer,
        "records": records_fingerprint(records.path),
        "checksums": _checksums(records.path),
        "images": len(records),
        "preparation": dataclasses.asdict(classifier.preparation),
    }
    return json.loads(json.dumps(identity))


def _checksums(path):
    """Of each file's records, whose fingerprint leaves out those in the middle."""
    files = [(checksums_path(file), file) for file in record_files(path)]
    return [sha256(sums if os.path.exists(sums) else file) for sums, file in files]


def open_index(
    path: Optional[str], classifier: Classifier, layer: str, records: Records
) -> np.ndarray:
    """The features of all pictures, (images, features) float16, read from ``path`` as needed.

    They are computed and written there, by default beside the checkpoint, if there is no such file.
    UserError if the index is damaged, or of another checkpoint or other records.
    """
    prefix, epoch = classifier.checkpoint
    path = path or f"{prefix}-{epoch:04d}-{layer}-index.npy"
    record, identity = f"{os.path.splitext(path)[0]}.json", _identity(classifier, layer, records)
    if not os.path.exists(record) and not os.path.exists(path):
        _build(path, record, identity, classifier, layer, records)
    remedy = f"delete {path} and {record}, then it is made anew, or give another --index"
    try:
        found = read_json(record, remedy)
    except FileNotFoundError:
        raise UserError(f"{record}: not found beside {path}; {remedy}")
    if not os.path.isfile(path) or found.pop("features", None) != sha256(path):
        raise UserError(f"{path}: is missing or damaged; {remedy}")
    if found != identity:
        other = ", ".join(key for key in identity if found.get(key) != identity[key])
        raise UserError(f"{path}: is the index of other things ({other}); {remedy}")
    return np.load(path, mmap_mode="r")


def _build(path, record, identity, classifier, layer, records):
    with atomic(record, path) as (record_file, features_file):
        with open(features_file, "wb") as file:
            for i, rows in enumerate(_features(classifier, layer, records)):
                if i == 0:
                    shape = {"descr": "<f2", "fortran_order": False}
                    shape["shape"] = (len(records), rows.shape[1])
                    np.lib.format.write_array_header_1_0(file, shape)
                file.write(rows.tobytes())
        write_json(record_file, {**identity, "features": sha256(features_file)})


def _features(classifier, layer, records):
    """(batch, features) float16 of all pictures, in order."""
    reading = classifier.preparation, classifier.batch_size, cpus.available()
    batches = pipeline.evaluation_batches(records, *reading)
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
