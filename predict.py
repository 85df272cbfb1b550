"""Name what is in pictures.

    python predict.py --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3 cat.jpg photos/ ...

Size, mean and class names come from the checkpoint's own record of how it was trained. A file that
cannot be read is named on stderr; the others are done all the same, and the exit code is then 1.
"""

import argparse
import csv
import io
import json
import os
import sys
from collections import Counter
from typing import Iterable, List, Tuple

from tqdm import tqdm

from common import cli
from common.checkpoint import store
from common.cli import UserError
from common.evaluate import calibration, network
from common.evaluate.classifier import MAX_PIXELS, Classifier, Guess
from common.io.files import atomic
from common.records.picture import EXTENSIONS
from common.runtime import devices, native


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE|DIR|-",
        help="a picture file; a folder, searched recursively (other files are ignored); or -, to"
        " read paths from stdin, one per line",
    )
    store.add_args(parser)
    parser.add_argument("--top-k", type=cli.positive_int, default=5, help="guesses a picture")
    parser.add_argument(
        "--threshold",
        type=cli.number(above=0, most=1),
        metavar="P",
        help="a picture is none of the classes if the likeliest is less probable; probabilities are"
        " those with the temperature that score.py --fit-temperature has found",
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="csv-bom: for Excel")
    parser.add_argument("--batch-size", type=cli.positive_int, default=32, help="over all devices")
    parser.add_argument("--gpus", type=cli.integers, help="such as 0,1; default: the CPU")
    network.add_dtype(parser)
    parser.add_argument(
        "--max-pixels",
        type=cli.positive_int,
        default=MAX_PIXELS,
        help="refuse pictures with more, before decoding if the header says so",
    )
    parser.add_argument("--features", metavar="LAYER", help="write a layer's outputs, such as fc2")
    parser.add_argument(
        "--out",
        type=cli.new_file_of(".npz", ".npy", ".csv"),
        metavar="X.npz",
        help="of --features: .npz, arrays 'files' (N paths) and 'features' (N, ...); .npy, only the"
        " features, in the order of the pictures; .csv, a row a picture",
    )
    args = parser.parse_args()
    _check(args)
    return args


def _check(args):
    if bool(args.features) != bool(args.out):
        raise UserError("--features LAYER and --out X.npz: give both, or neither")
    if args.features and (args.format, args.top_k, args.threshold) != ("text", 5, None):
        raise UserError(
            "--format, --top-k and --threshold: are not for --features, which prints nothing"
        )


def find(names: Iterable[str]) -> Tuple[List[str], Counter]:
    """The pictures that the command line names, and the other files in its folders by extension.

    UserError if there are no pictures.
    """
    paths, ignored = [], Counter()
    for name in names:
        for path in _paths_on_stdin() if name == "-" else [name]:
            paths += sorted(_pictures_below(path, ignored)) if os.path.isdir(path) else [path]
    if not paths:
        found = f"; ignored: {cli.counted(ignored)}" if ignored else ""
        expected = " ".join(sorted(EXTENSIONS))
        raise UserError(f"{' '.join(names)}: no pictures there ({expected}{found})")
    return paths, ignored


def _paths_on_stdin():
    return [os.fsdecode(line) for line in sys.stdin.buffer.read().splitlines() if line]


def _pictures_below(folder, ignored):
    unreadable = []  # folders; they are named with the files that cannot be read
    for parent, folders, files in os.walk(folder, onerror=lambda e: unreadable.append(e.filename)):
        folders[:] = [name for name in folders if name[0] != "."]
        for name in files:
            extension = os.path.splitext(name)[1].lower()
            if name[0] == ".":
                continue
            if extension in EXTENSIONS:
                yield os.path.join(parent, name)
            else:
                ignored[extension or "without extension"] += 1
    yield from unreadable


def as_text(path: str, guesses: List[Guess]) -> str:
    """The path, and below it a line a guess."""
    if not guesses:
        return f"{path}\n  {NONE}"
    lines = [f"  {guess.probability:6.1%}  {guess.name}" for guess in guesses]
    return "\n".join([path, *lines])


def as_csv(path: str, guesses: List[Guess]) -> str:
    """A row a guess, under the columns of ``CSV_HEADER``."""
    text = io.StringIO()
    rows = [[path, rank, g.name, _rounded(g.probability)] for rank, g in enumerate(guesses, 1)]
    csv.writer(text, lineterminator="\n").writerows(rows or [[path, "", NONE, ""]])
    return text.getvalue()[:-1]


def as_jsonl(path: str, guesses: List[Guess]) -> str:
    """An object a picture."""
    listed = [{"name": g.name, "probability": _rounded(g.probability)} for g in guesses]
    return json.dumps({"file": path, "guesses": listed})


def _rounded(probability):
    return float(f"{probability:.7g}")  # what float32 holds


NONE = "none of these"  # classes: what --threshold says
CSV_HEADER = "file,rank,name,probability"
# Spreadsheets on Windows take a file without a byte order mark for the system's own encoding; most
# other programs take the mark for a part of the first column's name.
FORMATS = {"text": as_text, "csv": as_csv, "csv-bom": as_csv, "jsonl": as_jsonl}


def print_guesses(
    args: argparse.Namespace, classifier: Classifier, paths: List[str], changes: List[str]
) -> int:
    """Print each picture's likeliest classes; how many pictures were read."""
    temperature = None
    if args.threshold:
        temperature = calibration.needed_temperature(args.model_prefix, args.load_epoch)
    wanted = len(classifier.classes) if temperature else args.top_k
    answers = classifier.stream(paths, wanted, changes=changes)
    if args.format == "csv-bom" and sys.stdout.encoding.lower().startswith("utf"):
        print("\ufeff", end="")
    if FORMATS[args.format] is as_csv:
        print(CSV_HEADER)
    done = 0
    for path, guesses in _readable(paths, answers, args.batch_size):
        if temperature:
            guesses = _sure(guesses, args, temperature)
        tqdm.write(FORMATS[args.format](path, guesses), file=sys.stdout)
        done += 1
    return done


def _sure(guesses, args, temperature):
    """The first of all classes' guesses, with the temperature; none below --threshold."""
    shares = calibration.scaled([guess.probability for guess in guesses], temperature)
    if shares[0] < args.threshold:
        return []
    return [Guess(guess.name, float(p)) for guess, p in zip(guesses[: args.top_k], shares)]


def write_features(
    args: argparse.Namespace, classifier: Classifier, paths: List[str], changes: List[str]
) -> int:
    """Write a layer's outputs to --out; how many pictures were read."""
    import numpy as np  # here: what lacks numpy is told by common.runtime

    answers = classifier.features(paths, args.features, changes=changes)
    with atomic(args.out) as temporary:
        rows = list(_readable(paths, answers, args.batch_size))
        if not rows:
            raise UserError(f"--out {args.out}: is not written, since no picture could be read")
        files, features = [path for path, _ in rows], np.array([row for _, row in rows])
        kind = os.path.splitext(args.out)[1].lower()
        if kind == ".csv":
            _write_csv(temporary, files, features.reshape(len(files), -1))
        else:
            with open(temporary, "wb") as file:
                if kind == ".npy":
                    np.save(file, features)
                else:
                    np.savez(file, files=files, features=features)
    return len(rows)


def _write_csv(path, files, features):
    """A row a picture: its path, and the layer's numbers, in the columns 0, 1, 2, ..."""
    form = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
    with open(path, "w", **form) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["file", *range(features.shape[1])])
        rows.writerows([name, *map(_rounded, row)] for name, row in zip(files, features))


def _readable(paths, answers, batch_size):
    """(path, answer) of the pictures that could be read; the others are named on stderr."""
    hidden = len(paths) <= batch_size or not sys.stderr.isatty()
    bar = tqdm(paths, unit=" img", dynamic_ncols=True, leave=False, disable=hidden)
    for path, answer in zip(bar, answers):
        if isinstance(answer, UserError):
            tqdm.write(str(answer), file=sys.stderr)
        else:
            yield path, answer


def main() -> int:
    """Print each picture's likeliest classes; 1 if one could not be read."""
    args = parse_args()
    contexts = devices.contexts(args.gpus)
    paths, ignored = find(args.images)
    batch_size = min(args.batch_size, len(paths))
    classifier = Classifier(
        args.model_prefix, args.load_epoch, batch_size, contexts, args.max_pixels, args.dtype
    )
    native.drop_lines(native.OPENCV_NOISE)  # of damaged files
    if ignored:
        print(f"ignored: {cli.counted(ignored)}", file=sys.stderr)
    changes: List[str] = []
    if args.features:
        done = write_features(args, classifier, paths, changes)
    else:
        done = print_guesses(args, classifier, paths, changes)
    if changes:
        print(f"changed: {cli.counted(Counter(changes))}", file=sys.stderr)
    return int(done < len(paths))


if __name__ == "__main__":
    cli.run(main)
