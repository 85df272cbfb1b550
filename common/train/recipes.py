"""How each network is trained on each data set: the defaults of train_imagenet.py's flags.

A recipe names its source and what to expect of it. Flags override a recipe's values.
"""

import argparse
import textwrap
from typing import List, NamedTuple, Sequence

from common.cli import UserError
from common.io import cpus


class Recipe(NamedTuple):
    """Defaults for one network on one data set; ``settings`` are flags' names and values."""

    source: str
    expected: str
    settings: dict


_SGD_2012 = dict(
    optimizer="sgd",
    batch_size=128,
    lr=0.01,
    mom=0.9,
    wd=5e-4,
    lr_schedule="step",
    lr_factor=0.1,
    random_crop=1,
    random_mirror=1,
    pca_noise=0.1,
)
_IMAGENET_2012 = dict(
    _SGD_2012,
    image_shape=(3, 227, 227),
    resize=256,
    rgb_mean=[123.68, 116.779, 103.939],
    rgb_std=[1.0, 1.0, 1.0],
    initializer="paper",
    num_epochs=90,
    # The paper: "divided by 10 when the validation error stopped improving", three times.
    lr_step_epochs=[30, 60, 80],
)
# The best of twelve settings on training images that are set apart: studies/demo.json, whose
# figures are in docs/results/demo.json. What the twelve have in common, such as three epochs and
# the way in which the rate falls, is from 130 trials with another implementation of the same
# network, which were scored on the test images. Smaller batches learn more from an image and take
# longer.
_CIFAR10 = dict(
    _SGD_2012,
    image_shape=(3, 67, 67),  # the least that leaves the article's graph as it is
    resize=70,
    rgb_mean=[125.3, 123.0, 113.9],
    rgb_std=[60.0, 60.0, 60.0],
    initializer="msra",
    batch_size=32,
    num_epochs=3,
    lr=0.035,
    mom=0.8,
    lr_schedule="linear",
    warmup_epochs=0.45,
)
# LeNet-5 on CIFAR-10's images in the preparation of _CIFAR10: crops of about the same share, which
# 32 of 34 pixels are.
_LENET_CIFAR10 = dict(_CIFAR10, image_shape=(3, 32, 32), resize=34, lr=0.03, initializer="xavier")
# https://github.com/pytorch/vision, references/classification: train.py on 8 GPUs with 32 images
# each, RandomResizedCrop(224), --lr 1e-2. Its initial weights are those of PyTorch's layers.
_TORCHVISION = dict(
    optimizer="sgd",
    batch_size=256,
    lr=0.01,
    mom=0.9,
    wd=1e-4,
    lr_schedule="step",
    lr_factor=0.1,
    lr_step_epochs=[30, 60],
    num_epochs=90,
    image_shape=(3, 224, 224),
    resize=256,
    rgb_mean=[123.675, 116.28, 103.53],
    rgb_std=[58.395, 57.12, 57.375],
    random_resized_crop=1,
    min_random_area=0.08,
    min_random_aspect_ratio=0.75,
    max_random_aspect_ratio=4 / 3,
    random_mirror=1,
    initializer="msra",
)
# BVLC/caffe, models/bvlc_reference_caffenet: solver.prototxt and train_val.prototxt. 100,000 steps
# of 256 images are 20 epochs. Caffe squeezes its pictures to 256x256, and its biases learn at twice
# the rate; these two are not taken over.
_CAFFENET = dict(
    _IMAGENET_2012,
    batch_size=256,
    pca_noise=0.0,
    initializer="caffenet",
    lr_step_epochs=[20, 40, 60, 80],
)
# The comments of layers/layer-params-145.cfg tell how the run went: steps, lighting, its end.
_IMAGENET_145 = dict(
    _IMAGENET_2012,
    image_shape=(3, 224, 224),
    initializer="source",
    num_epochs=91,
    lr_step_epochs=[25, 51, 79],
)
# For some hundreds to some thousands of photographs. The scale of _CIFAR10: with He's initial
# weights and std 1 the first loss is 49, and weights overflow. make_classifier.py chooses the size
# and the epochs for the time at hand.
_PHOTOS = dict(
    _CIFAR10,
    image_shape=(3, 131, 131),
    resize=148,
    rgb_mean=[123.68, 116.779, 103.939],
    num_epochs=30,
    lr=0.02,
    warmup_epochs=0.9,
)
# Chosen on held-out training images of Oxford's 17 flowers and of Caltech-101, at 67 px, with rates
# from a quarter to four times _PHOTOS's: docs/results/flowers.json and caltech.json.
_PHOTOS_ALEXNET = dict(_PHOTOS, lr=0.01, normalization="bn-before", dropout=0.25)
_OF_NETWORKS = {"normalization", "dropout"}  # options that not every network has
_AS_ALEXNET = "as for alexnet, whose three epochs reach 71% top-1"
_PAPER = "Krizhevsky, Sutskever, Hinton 2012, section 5"

RECIPES = {
    ("alexnet", "imagenet"): Recipe(
        _PAPER,
        "about 57.1% top-1, 80.2% top-5 on the centre crop, Caffe's bvlc_alexnet (not run here)",
        _IMAGENET_2012,
    ),
    ("alexnet2012", "imagenet"): Recipe(
        _PAPER,
        "59.3% top-1, 81.8% top-5 on ten crops (the paper's one net; not run here)",
        _IMAGENET_2012,
    ),
    ("alexnet_owt", "imagenet"): Recipe(
        "torchvision's references, with He's initial weights",
        "56.5% top-1, 79.1% top-5 on the centre crop, as torchvision publishes (not run here)",
        _TORCHVISION,
    ),
    ("caffenet", "imagenet"): Recipe(
        "Caffe's bvlc_reference_caffenet",
        "57.4% top-1, 80.4% top-5 on the centre crop, as Caffe publishes (not run here)",
        _CAFFENET,
    ),
    ("alexnet145", "imagenet"): Recipe(
        "Krizhevsky's run 145",
        "59.3% top-1, 81.8% top-5 on ten crops (his log; not run here)",
        _IMAGENET_145,
    ),
    ("alexnet", "cifar10"): Recipe(
        "2012's augmentation; the rest fitted to some 10 minutes on 2 cores", "71% top-1", _CIFAR10
    ),
    **{
        (network, "cifar10"): Recipe(_AS_ALEXNET, "about the same (not run)", _CIFAR10)
        for network in ("alexnet2012", "alexnet145", "caffenet")
    },
    ("lenet", "cifar10"): Recipe(
        "as for alexnet, at the images' own size",
        "55% top-1 on images held out of the training",
        _LENET_CIFAR10,
    ),
    ("alexnet", "photos"): Recipe(
        "chosen on held-out training images of Oxford's 17 flowers and of Caltech-101",
        "70% top-1 on 204 of the flowers after 20 epochs at 67 px",
        _PHOTOS_ALEXNET,
    ),
    **{
        (network, "photos"): Recipe(
            "as for alexnet, with its own layers", "less (not run)", _PHOTOS
        )
        for network in ("alexnet2012", "alexnet145", "caffenet", "alexnet_owt")
    },
    ("lenet", "mnist"): Recipe(
        "SGD in place of the paper's stochastic diagonal Levenberg-Marquardt",
        "98.9% top-1",
        dict(
            optimizer="sgd",
            batch_size=64,
            lr=0.05,
            mom=0.9,
            wd=0.0,
            lr_schedule="linear",
            image_shape=(1, 32, 32),
            # LeCun et al. 1998: white -0.1 and black 1.175, so that the mean is about 0.
            rgb_mean=[20.0],
            rgb_std=[200.0],
            initializer="xavier",
            num_epochs=4,
        ),
    ),
}


def recipe(network: str, dataset: str) -> Recipe:
    """The recipe for ``network`` on ``dataset``; UserError if there is none.

    Of a user's network it is the first one there without options of a network.
    """
    if (network, dataset) in RECIPES:
        return RECIPES[network, dataset]
    known = [d for n, d in RECIPES if n == network]
    for (other, there), found in RECIPES.items():
        if there == dataset and not known and not _OF_NETWORKS & found.settings.keys():
            source = f"{other}'s ({found.source})"
            return found._replace(source=source, expected="what your network reaches")
    names = ", ".join(known or dict.fromkeys(d for _, d in RECIPES))
    raise UserError(f"--dataset {dataset}: {network} has recipes for {names} only")


def scaled_rate(args: argparse.Namespace) -> float:
    """--lr, multiplied as the images of an update are of --lr-batch, if that is given.

    Source: Goyal et al. 2017, arXiv 1706.02677, section 2.1, who warm up during 5 epochs.
    """
    return args.lr * args.batch_size * args.accumulate / args.lr_batch if args.lr_batch else args.lr


def describe(
    args: argparse.Namespace, followed: Recipe, contexts: Sequence[object], changed: List[str]
) -> str:
    """What a run resolved, for its first lines: the recipe's settings, and ``changed`` ones.

    Those are the names of settings that flags gave another value; they are marked with ``+``.
    """
    shape = ",".join(map(str, args.image_shape))
    settings = []
    for name in dict.fromkeys([*followed.settings, *changed]):
        value = getattr(args, name)
        mark = "+" if name in changed else ""
        shown = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        settings.append(f"{mark}{name.replace('_', '-')} {shown}")
    paragraphs = [
        f"{args.network}, {args.num_classes} classes, images {shape}, on"
        f" {', '.join(map(str, contexts))}, {cpus.openmp_threads()} OpenMP threads",
        f"recipe for {args.dataset}: {followed.source}; expect {followed.expected}",
        "settings: " + ", ".join(settings),
    ]
    images = args.accumulate * args.batch_size  # of an update
    if args.lr_batch:
        rate = f"{args.lr:g} x {images} / {args.lr_batch} = {scaled_rate(args):g}"
        paragraphs.append(f"learning rate: {rate} (Goyal et al. 2017)")
    if args.accumulate > 1:
        paragraphs.append(
            f"updates: of {images} images each, in {args.accumulate}"
            f" batches of {args.batch_size}; --lr, its schedule, --disp-batches and"
            " --skip-nonfinite count updates as batches"
        )
    return "\n".join(textwrap.fill(p, 100, subsequent_indent="  ") for p in paragraphs)
