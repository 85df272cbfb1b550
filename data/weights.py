"""The public AlexNet weights as checkpoints: ``python -m data.weights torchvision``.

Without a name, the weights are listed. The files are downloaded to ``--root``, or taken from
``--source``, checked, and given to import_weights.py, which proves them and writes the checkpoint.
"""

import argparse
import glob
import os
import subprocess
import sys
from typing import Dict, NamedTuple, Optional, Sequence, Tuple

from common.cli import ArgumentParser, UserError, run
from common.io.children import ROOT
from common.io.files import check_is_local

from .download import File, get

_ZOO = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/gluon/models"
_BVLC = "https://raw.githubusercontent.com/BVLC/caffe/88c96189bcbf3853b93e2b65c7b5e4948f9d5f67"


class Weights(NamedTuple):
    """Weights of an AlexNet for ImageNet's 1,000 classes."""

    files: Tuple[File, ...]
    licence: str
    accuracy: str  # published by the makers: top-1 / top-5 of ImageNet's validation images


# torchvision: models/alexnet.py has address and accuracy; the name ends in the checksum's first
# digits. gluon: MXNet 1.9.1's gluon/model_zoo/model_store.py. bvlc_*: Caffe's
# models/*/readme.md; sizes and checksums are those of OpenVINO's open_model_zoo.
_TORCHVISION = File(
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "sha256:7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    244408911,
)
_GLUON = File(
    f"{_ZOO}/alexnet-44335d1f.zip",
    "sha1:44335d1f0046b328243b32a26a4fbd62d9057b45",
    member="alexnet-44335d1f.params",
)
_BVLC_ALEXNET = (
    File(
        "http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel",
        "sha256:4bff209a9837298157915ef50a4831a59636a6ca1a6b8ebacd990c3a5f3053e0",
        243862414,
    ),
    File(
        f"{_BVLC}/models/bvlc_alexnet/deploy.prototxt",
        "sha256:b564ba76416b4ac1e062c6621cbd80d9c19304ba152d9d791c75870f3182c4fa",
        3629,
    ),
)
_BVLC_CAFFENET = (
    File(
        "http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
        "sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
        243862418,
    ),
    File(
        f"{_BVLC}/models/bvlc_reference_caffenet/deploy.prototxt",
        "sha256:922248a4d2f6aac1cc8e7e5dbd996cc2ecd3356480d67c198f6cf96b12311a04",
        2878,
    ),
)
_FREE = "for unrestricted use"
KNOWN: Dict[str, Weights] = {
    "torchvision": Weights((_TORCHVISION,), "torchvision's, BSD-3-Clause", "56.522% / 79.066%"),
    "gluon": Weights((_GLUON,), "MXNet's, Apache-2.0", "54.92% / 78.03%"),
    "bvlc_alexnet": Weights(_BVLC_ALEXNET, _FREE, "57.1% / 80.2%"),
    "bvlc_reference_caffenet": Weights(_BVLC_CAFFENET, _FREE, "57.4% / 80.4%"),
}


def main(argv: Optional[Sequence[str]] = None, known: Dict[str, Weights] = KNOWN) -> int:
    """List the weights, or make a checkpoint of some; the exit code.

    UserError if they cannot be had, are others, or there is a checkpoint already.
    """
    args = _parse_args(argv, known)
    if args.name is None:
        print("\n".join(line for name in known for line in _described(name, known[name])))
        return 0
    weights, prefix = known[args.name], args.out_prefix or f"checkpoints/{args.name}"
    check_is_local(prefix, "--out-prefix")
    code, there = 0, glob.glob(f"{glob.escape(prefix)}-[0-9][0-9][0-9][0-9].params")
    if args.overwrite or not there:
        names = "--class-names", os.path.join(ROOT, "data", "imagenet_classes.txt")
        more = ["--overwrite"] * args.overwrite
        files = _files(args, weights)
        code = _run("import_weights.py", *files, "--out-prefix", prefix, *names, *more)
    elif not args.check:
        raise UserError(
            f"--out-prefix {prefix}: {there[0]} exists; choose another prefix, or pass --overwrite"
            " to lose it"
        )
    if args.check and not code:
        model = "--model-prefix", prefix, "--load-epoch", "0"
        code = _run("score.py", *model, "--data-val", args.check)
        if not code:
            print(f"published: top-1 / top-5 {weights.accuracy}")
    return code


def _files(args, weights):
    """The paths of the files, whole."""
    names = " ".join(file.name for file in weights.files)
    sources = args.source or [None] * len(weights.files)
    if len(sources) != len(weights.files):
        raise UserError(f"--source: {args.name} takes, in this order: {names}")
    remedy = f"try again, or get it elsewhere and pass --source {names}"
    return [get(file, args.root, remedy, source) for file, source in zip(weights.files, sources)]


def _parse_args(argv, known) -> argparse.Namespace:
    parser = ArgumentParser(__doc__)
    add = parser.add_argument
    add("name", nargs="?", choices=list(known), help="default: list the weights that there are")
    at_hand = "the files (or Gluon's .zip) at hand: nothing is downloaded"
    add("--source", nargs="+", metavar="FILE", help=at_hand)
    add("--root", default="datasets/weights", help="folder where downloaded files stay")
    add("--out-prefix", help="of the checkpoint; default: checkpoints/NAME")
    add("--overwrite", action="store_true", help="replace the checkpoints at --out-prefix")
    add(
        "--check",
        nargs="?",
        const="datasets/imagenet/val.rec",
        metavar="X.rec",
        help="then score the checkpoint on ImageNet's validation images, datasets/imagenet/val.rec,"
        " beside the published accuracy; one that is there already is not made again",
    )
    args = parser.parse_args(argv)
    if args.name is None and (args.source or args.check):
        parser.error("give the name of the weights first, before --source and --check")
    for path in (args.check or "").split(";"):
        if path and not os.path.exists(path):
            parser.error(f"--check {path}: no such file; data/README.md says how to make it")
    return args


def _described(name, weights):
    yield f"{name}: {weights.licence}; published accuracy {weights.accuracy} (top-1 / top-5)"
    for file in weights.files:
        size = f", {file.size:,} bytes" if file.size else ""
        yield f"  {file.address}{size}"


def _run(script, *flags):
    """Run a script that needs MXNet as a program of its own; its exit code."""
    sys.stdout.flush()
    return subprocess.run([sys.executable, os.path.join(ROOT, script), *flags]).returncode


if __name__ == "__main__":
    run(main)
