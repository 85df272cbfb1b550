"""ImageNet (ILSVRC2012) as record files, from the official tar archives or from Kaggle's folders.

    python -m data.imagenet --train ILSVRC2012_img_train.tar --val ILSVRC2012_img_val.tar \\
        --devkit ILSVRC2012_devkit_t12.tar.gz datasets/imagenet
    python -m data.imagenet --train ILSVRC/Data/CLS-LOC/train --val ILSVRC/Data/CLS-LOC/val \\
        --devkit LOC_val_solution.csv datasets/imagenet

The archives come from https://image-net.org (registration). Nothing is unpacked to disk: the
images pass through memory, are re-encoded, and land in parts (OUT_DIR/train.parts, one for each
class), which are joined into OUT_DIR/train.rec at the end and then deleted. Killed at any time
and run again, it continues where it was. While it joins, the disk holds the images twice.

Labels are 0 to 999 in sorted order of the WordNet ids, the field's usual order. The validation
ground truth numbers the classes 1 to 1000 in another order; data/imagenet_classes.txt has both.
One training image is a PNG and some 22 are CMYK in spite of their names: they are converted.
"""

import contextlib
import glob
import os
import shutil
import tarfile
from typing import Dict, List, NamedTuple, Optional, Sequence

from common.cli import ArgumentParser, UserError, run
from common.io.files import check_is_local
from common.io.lock import lock
from data import arrays, pack, parts
from data import imagenet_folders as folders
from data.imagenet_folders import PARTIAL, Job

MD5 = {  # as image-net.org and torchvision give them
    "train": "1d675b47d978889d74fa0da5fadfb00e",
    "val": "29b22e2961454d5413ddabcf34fc5622",
}
_REMEDIES = {
    split: f"its MD5 should be {md5}; get it again (what is done is kept)"
    for split, md5 in MD5.items()
}
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
# The end of a tar: two blocks of zeros, then zeros up to a multiple of 20 blocks.
_TAR_BLOCK = 512  # bytes
_TAR_END = (2 + 20) * _TAR_BLOCK  # at most


class Class(NamedTuple):
    """A line of imagenet_classes.txt; its position in the file is the label."""

    wnid: str  # WordNet id, n01440764
    ilsvrc_id: int  # 1 to 1000, in the challenge's order
    name: str  # the first of its names


def classes() -> List[Class]:
    """The 1000 classes in label order."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "imagenet_classes.txt")
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    return [Class(wnid, int(number), names.split(", ")[0]) for wnid, number, names in rows]


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Entry point of ``python -m data.imagenet``."""
    args = _parse(argv)
    table = classes()
    wnids = [row.wnid for row in table]
    jobs: List[Job] = []
    if args.train and os.path.isdir(args.train):
        jobs.append(folders.train_folder(args.train, wnids, args.allow_partial))
    elif args.train:
        jobs.append(train_tar(args.train, wnids, args.allow_partial))
    if args.val:
        if args.devkit.endswith(".csv"):
            labels = folders.solution_labels(args.devkit, wnids)
        else:
            labels = val_labels(devkit_text(args.devkit), args.devkit, table)
        jobs.append((folders.val_folder if os.path.isdir(args.val) else val_tar)(args.val, labels))
    for job in jobs:
        prefix = os.path.join(args.out_dir, job.split)
        with lock(prefix, "OUT_DIR") as locked:
            _make(job, args, [row.name for row in table], prefix, locked)


def _parse(argv):
    parser = ArgumentParser(description="Make record files of ImageNet (ILSVRC2012).")
    parser.add_argument("out_dir", metavar="OUT_DIR", help="folder for train.rec and val.rec")
    parser.add_argument(
        "--train", metavar="TAR|DIR", help="ILSVRC2012_img_train.tar, or class folders"
    )
    parser.add_argument("--val", metavar="TAR|DIR", help="ILSVRC2012_img_val.tar, or a folder")
    parser.add_argument(
        "--devkit",
        metavar="TAR.GZ|CSV",
        help="labels for --val: ILSVRC2012_devkit_t12.tar.gz or Kaggle's LOC_val_solution.csv",
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="accept fewer classes or images than ImageNet has",
    )
    pack.add_args(parser)
    args = parser.parse_args(argv)
    if not args.train and not args.val:
        parser.error("give --train, --val or both")
    if args.val and not args.devkit:
        parser.error("--val needs its labels: give --devkit, too")
    check_is_local(args.out_dir, "OUT_DIR")
    for flag in ("train", "val", "devkit"):
        path = getattr(args, flag)
        found = os.path.isfile(path or "") or (flag != "devkit" and os.path.isdir(path or ""))
        if path and not found:
            raise UserError(f"--{flag} {path}: no such file")
    return args


def _make(job, args, names, prefix, locked):
    workspace = f"{prefix}.parts"
    if args.overwrite:
        shutil.rmtree(workspace, ignore_errors=True)
    elif os.path.exists(f"{prefix}.rec") and not os.path.exists(workspace):
        print(f"{prefix}.rec: already made; kept (--overwrite makes it again)")
        return
    if locked:  # otherwise another run may be using its temporary files
        for leftover in glob.glob(f"{glob.escape(prefix)}*.tmp*"):  # of a run that was killed
            os.unlink(leftover)
    done = _make_parts(job, workspace, args)
    written, bad = sum(len(part.names) for part in done), [b for part in done for b in part.bad]
    if not args.allow_partial and written + len(bad) != job.images:
        raise UserError(
            f"{job.path}: has {written + len(bad):,} images, not {job.images:,};"
            f" {job.remedy}, {PARTIAL}"
        )
    pack.report(bad, {prefix: written}, args.skip_bad)
    count = parts.join(done, prefix, names, job.label, shuffle=job.split == "train")
    shutil.rmtree(workspace)
    print(f"{prefix}.rec: {count:,} images, {os.path.getsize(f'{prefix}.rec') / 1e9:.2f} GB")


def _make_parts(job, workspace, args):
    """Make the parts of ``job`` that are missing; return all."""
    # Parts made with other settings lie in another folder, so they are never mixed.
    settings = f"resize{args.resize}-quality{args.quality}{args.encoding.replace('.', '-')}"
    folder = os.path.join(workspace, settings + "-square" * args.center_crop)
    done = parts.find(folder)
    if done:
        print(f"{job.split}: continuing; {len(done)} parts already exist", flush=True)
    total = None if args.allow_partial else job.images - sum(map(len, done.values()))
    parts.write(folder, job.items(done), job.split, total, **pack.options(args))
    done = parts.find(folder)
    return [done[name] for name in job.parts]


def train_tar(path: str, wnids: List[str], allow_partial: bool) -> Job:
    """ILSVRC2012_img_train.tar: a tar for each class, n01440764.tar and so on."""
    remedy = _REMEDIES["train"]
    with open(path, "rb") as file, _tar(path, file, remedy) as archive:
        members = {os.path.basename(member.name): member for member in _files(archive)}
    labels = {f"{wnid}.tar": label for label, wnid in enumerate(wnids)}
    for name in members.keys() - labels.keys():
        raise UserError(f"{path}: {name} is no class of ImageNet; {remedy}")
    folders.check_count(path, len(members), len(wnids), remedy, allow_partial)
    tars = {labels[name]: member for name, member in members.items()}

    def of_class(label):
        title = f"{path}: {tars[label].name}"
        with contextlib.ExitStack() as stack:
            outer = stack.enter_context(tarfile.open(path, "r:"))
            archive = stack.enter_context(_tar(title, outer.extractfile(tars[label]), remedy))
            for image in _files(archive):
                yield os.path.basename(image.name), archive.extractfile(image).read()
            if not archive.getmembers():
                raise UserError(f"{title}: is empty; {remedy}")

    named = {f"{wnids[label]}-{member.size}": label for label, member in tars.items()}
    return folders.training(path, remedy, named, of_class)


def val_tar(path: str, labels: Dict[str, int]) -> Job:
    """ILSVRC2012_img_val.tar: flat; every VAL_PART images are a part."""
    remedy, size = _REMEDIES["val"], os.path.getsize(path)
    named: Dict[str, None] = {}  # an ordered set

    def items(done):
        with open(path, "rb") as file, _tar(path, file, remedy) as archive:
            for i, member in enumerate(_files(archive)):
                name, part = os.path.basename(member.name), f"{i // folders.VAL_PART:02d}-{size}"
                if name not in labels:
                    raise UserError(f"{path}: the development kit has no label for {name}")
                named[part] = None
                if part not in done:
                    yield name, part, archive.extractfile(member).read()

    count = folders.VAL_IMAGES
    return Job("val", count, path, remedy, named, items, lambda _, image: labels[image])


def _files(archive):
    return (member for member in archive if member.isfile())


@contextlib.contextmanager
def _tar(title, file, remedy):
    """Open the tar in ``file``. The block must read it to its end; then check that it was whole.

    tarfile takes a damaged header, a hole of zeros or a cut between two members for the end of the
    archive: images would be lost silently. A true end is zeros up to the padding.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            yield archive
            file.seek(archive.offset)
            rest = file.read(_TAR_END + 1)
            count = len(archive.getmembers())
    except tarfile.TarError as error:
        raise UserError(f"{title}: is cut or damaged ({error}); {remedy}")
    if any(rest) or not _TAR_BLOCK <= len(rest) <= _TAR_END:
        raise UserError(f"{title}: is cut or damaged after {count} files; {remedy}")


def val_labels(text: str, path: str, table: List[Class]) -> Dict[str, int]:
    """{file name of a validation image: label}, from the text of the ground truth in ``path``.

    Its line n is the ILSVRC2012 id (1 to 1000) of the image with number n; UserError if not.
    """
    ids = {str(row.ilsvrc_id): label for label, row in enumerate(table)}
    labels = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() not in ids:
            raise UserError(
                f"{path}: line {number} of its ground truth ({line[:40]!r}) is no ILSVRC2012 id;"
                " get the file again"
            )
        labels[f"ILSVRC2012_val_{number:08d}.JPEG"] = ids[line.strip()]
    return labels


def devkit_text(path: str) -> str:
    """The validation ground truth in the development kit, ILSVRC2012_devkit_t12.tar.gz."""
    files = arrays.members(path, "get it again", only=_GROUND_TRUTH)
    if _GROUND_TRUTH not in files:
        raise UserError(f"{path}: has no {_GROUND_TRUTH} in it; get it again")
    return files[_GROUND_TRUTH].decode()


if __name__ == "__main__":
    run(main)
