"""A tree of class folders -> record files: one split, several processes.

    python -m data.folder photos datasets/photos --val-fraction 0.1
    python -m data.folder --list photos.csv --root photos datasets/photos

TRAIN_DIR holds a folder for each class; every image below it, however deep, is of that class. The
sorted folder names (Unicode NFC) are the labels 0, 1, ... and are kept in PREFIX-classes.txt.
Hidden files, files of other types and files outside the class folders are ignored and counted.
Symbolic links are followed, but no folder is read twice for one class. Makes PREFIX.rec and .idx,
or with a --val flag PREFIX-train.rec, PREFIX-val.rec and theirs, all of them or none.

In place of TRAIN_DIR, --list names each picture and its label; see data/listing.py. Labels that are
numbers are kept, without PREFIX-classes.txt; names are sorted, as folders are.
"""

import argparse
import collections
import contextlib
import os
import random
import sys
import unicodedata
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from common.cli import ArgumentParser, UserError, counted, number, positive_int, run
from common.records.picture import EXTENSIONS
from common.records.writer import create_records
from data import pack
from data.listing import read_list
from data.outputs import prefix_of, prepare_output
from data.progress import progress
from data.split import find_alike, split

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


class Tree(NamedTuple):
    """The images of a tree of class folders, and what else lay there."""

    images: Dict[str, List[str]]  # class name -> paths; both sorted
    ignored: collections.Counter  # extension, or a reason -> number of files
    numbered: bool = False  # the classes have numbers only, the labels


def find(folder: str, empty: bool = False) -> Tree:
    """List the images below the class folders of ``folder``.

    UserError if it or class folders are missing, one is empty (without ``empty``), or a name cannot
    be used.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: is not a folder; give one that holds a folder for each class")
    tree, no_image = Tree({}, collections.Counter()), []
    names = {name: unicodedata.normalize("NFC", name) for name in os.listdir(folder)}
    for name in sorted(names, key=names.get):
        path = os.path.join(folder, name)
        if not os.path.isdir(path):
            tree.ignored["outside a class folder"] += 1
        elif not name.startswith("."):
            _check_class(folder, name, names[name], tree.images)
            others = collections.Counter()
            images = tree.images[names[name]] = sorted(_images_below(path, others))
            tree.ignored.update(others)
            if not images:
                no_image.append(f"{name} ({counted(others)})" if others else name)
    _check_classes(folder, tree.images, [] if empty else no_image)
    return tree


def _images_below(folder, ignored):
    seen = set()
    for parent, folders, files in os.walk(folder, onerror=_fail, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else [name for name in folders if name[0] != "."]
        if real in seen:  # a link back up the tree, or a second link to one folder
            continue
        seen.add(real)
        for name in files:
            extension = os.path.splitext(name)[1].lower()
            if name[0] == ".":
                ignored["hidden"] += 1
            elif extension not in EXTENSIONS:
                ignored[extension or "no extension"] += 1
            else:
                yield os.path.join(parent, name)


def _fail(error):
    raise error


def _check_class(folder, stored, name, others):
    # Bytes that are not UTF-8 come as lone surrogates.
    if name.encode(errors="replace").decode().splitlines() != [name]:
        raise UserError(f"{folder}: class folder {name!r}: rename it to one line of UTF-8")
    if name in others:  # a Mac writes accents as characters of their own
        raise UserError(
            f"{folder}: two class folders are named {name}, in other bytes; merge {ascii(stored)}"
            " with the other"
        )


def _check_classes(folder, images, no_image):
    if not images:
        raise UserError(f"{folder}: has no class folders; put each class's images in one")
    if _SPLITS.issuperset(name.lower() for name in images):
        raise UserError(
            f"{folder}: {_some(list(images))} are no classes; give the folder of training images"
            " as TRAIN_DIR and another one with --val-dir"
        )
    if no_image:
        raise UserError(
            f"{folder}: no image in {_some(no_image)}; remove such folders or fill them"
            f" ({' '.join(sorted(EXTENSIONS))})"
        )


def _some(names):
    """'a, b, c and 4 more'"""
    shown = ", ".join(names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def items(images: Dict[str, List[str]], seed: Optional[int] = None) -> List[pack.Item]:
    """(name, label, path) of every image; in class order, or shuffled with ``seed``.

    Training records are shuffled because a reader without the index shuffles only nearby ones.
    """
    listed = [(path, label, path) for label, paths in enumerate(images.values()) for path in paths]
    if seed is not None:
        random.Random(seed).shuffle(listed)
    return listed


def outputs(args: argparse.Namespace) -> Tuple[Dict[str, List[pack.Item]], Tree]:
    """What to write: prefix -> items; and the classes, with all that was ignored."""
    tree = _source(args.train_dir, args.list, args.root)
    _check_counts(args, tree.images)
    training, validation = tree.images, None
    if args.val_dir or args.val_list:
        other = _source(args.val_dir, args.val_list, args.root, empty=True)
        unknown = [name for name in other.images if name not in training]
        if unknown:
            raise UserError(
                f"{args.val_dir or args.val_list}: has the classes {_some(unknown)}, which"
                f" {args.train_dir or args.list} has not; remove them, or add training images"
            )
        validation = {name: other.images.get(name, []) for name in training}
        tree.ignored.update(other.ignored)
    elif args.val_fraction:
        alike = find_alike(training, args.workers) if args.keep_alike else None
        training, validation = split(training, args.val_fraction, args.seed, alike)
    if validation is None:
        return {args.out_prefix: items(training, args.seed)}, tree
    train, val = f"{args.out_prefix}-train", f"{args.out_prefix}-val"
    return {train: items(training, args.seed), val: items(validation)}, tree


def _check_counts(args, images):
    few = [f"{name} ({len(paths)})" for name, paths in images.items() if len(paths) < args.least]
    if few:
        raise UserError(
            f"{args.train_dir or args.list}: fewer than {args.least} images in {_some(few)}; add"
            " some, or take the class out"
        )


def _source(folder, path, root, empty=False):
    if folder:
        return find(folder, empty)
    images, numbered = read_list(path, root or os.path.dirname(path))
    return Tree(images, collections.Counter(), numbered)


def write(
    wanted: Dict[str, List[pack.Item]],
    classes: List[str],
    skip_bad: bool = False,
    named: bool = True,
    **how: Any,
) -> None:
    """Write the record files of each prefix -> items; they appear together, when whole.

    Unreadable images are named on stderr; ``skip_bad`` leaves them out, else they are a UserError,
    as are an output without any image and a process that died. ``classes`` that are not ``named``
    but numbers need no file. ``how`` is what :func:`pack.encode_all` takes.
    """
    bad, written = [], {}
    changes: List[str] = []  # of pictures
    with contextlib.ExitStack() as stack:
        for prefix, listed in wanted.items():
            writer = stack.enter_context(create_records(prefix, classes if named else None))
            unreadable = _fill(writer, listed, prefix, {"changes": changes, **how})
            written[prefix] = writer.count
            bad += unreadable
            if writer.count + len(unreadable) != len(listed):
                raise RuntimeError(f"{prefix}: {writer.count} of {len(listed)} images were written")
        pack.report(bad, written, skip_bad)
    if changes:
        print(f"changed: {counted(collections.Counter(changes))}", file=sys.stderr)
    for prefix, count in written.items():
        print(f"{prefix}.rec: {count} images of {len(classes)} classes")


def _fill(writer, listed, prefix, how):
    """Write what is readable; return (name, cause) of the rest."""
    bad = []
    with contextlib.closing(pack.encode_all(listed, **how)) as encoded:
        for name, label, image in progress(encoded, os.path.basename(prefix), len(listed)):
            if isinstance(image, pack.Unreadable):
                bad.append((name, str(image)))
            else:
                writer.write(label, image)
    return bad


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = ArgumentParser(__doc__, prog="python -m data.folder")
    add = parser.add_argument
    add("train_dir", metavar="TRAIN_DIR", nargs="?", help="holds a folder for each class")
    add("out_prefix", metavar="OUT_PREFIX", type=prefix_of, help="the output's path without .rec")
    lists = "instead of TRAIN_DIR: lines of MXNet, or path,label"
    add("--list", metavar="X.lst|X.csv", help=lists)
    add("--root", help="where the lists' paths start; default: the list's folder")
    fraction = number(above=0, below=1)
    validation = parser.add_mutually_exclusive_group()
    validation.add_argument("--val-dir", help="validation images, in folders of the same names")
    validation.add_argument("--val-list", metavar="X.lst|X.csv", help="validation images")
    validation.add_argument("--val-fraction", type=fraction, help="of each class, at random")
    add(
        "--keep-alike",
        action="store_true",
        help="with --val-fraction: copies and near copies of a picture stay on one side, and a file"
        " in two classes is refused",
    )
    add("--least", metavar="N", type=positive_int, default=1, help="images a class must have")
    add("--seed", type=int, default=0, help="of the split and the record order")
    pack.add_args(parser)
    args = parser.parse_intermixed_args()  # so that flags may stand between the two positions
    if bool(args.train_dir) == bool(args.list):
        parser.error("give TRAIN_DIR OUT_PREFIX, or --list and OUT_PREFIX")
    if args.keep_alike and not args.val_fraction:
        parser.error("--keep-alike: is for --val-fraction; leave it out")
    if args.root and not args.list and not args.val_list:
        parser.error("--root: is for --list; leave it out")
    return args


def main() -> None:
    """Pack, then say what was written and what was ignored."""
    args = parse_args()
    wanted, tree = outputs(args)
    classes, ignored = list(tree.images), tree.ignored
    for prefix in wanted:
        prepare_output(prefix, args.overwrite)
    if ignored:
        print(f"ignored: {sum(ignored.values())} files ({counted(ignored)})", file=sys.stderr)
    for prefix, listed in wanted.items():
        without = set(range(len(classes))) - {label for _, label, _ in listed}
        if without:
            names = _some([classes[label] for label in sorted(without)])
            print(f"{prefix}.rec: will have no image of {names}", file=sys.stderr)
    write(wanted, classes, args.skip_bad, not tree.numbered, **pack.options(args))


if __name__ == "__main__":
    run(main)
