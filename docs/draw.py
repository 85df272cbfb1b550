"""Draw the pictures of docs/six-ideas.md again, from committed results.

    python -m docs.draw
    python -m docs.draw --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3

With a checkpoint of the demo, its first layer replaces docs/results/conv1.npz before that.
"""

import argparse
import json
import os
import tempfile
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

import symbols
from common import cli
from common.draw import pictures, style
from common.draw.curves import Curve, Panel, curves
from common.draw.study import study_chart
from common.draw.style import new_figure, show_pixels, styled
from common.draw.tiles import framed, map_tiles, sheet, strongest
from common.evaluate import network
from common.input import pipeline
from common.input.augmentation import Augmentation, add_args
from common.input.preparation import Preparation
from common.input.training_data import TrainingData
from common.io.files import atomic
from common.io.opencv import cv2
from common.records.writer import create_records
from common.runtime.mxnet import mx
from common.train import recipes
from docs.scene import scene

_WIDTH = 8.0  # inches
_MAPS = 24  # of a layer that are shown
_TIMES = 6  # that an image is seen
_NOTE = "mean and range of the seeds"
_HERE = os.path.dirname(os.path.abspath(__file__))
CONV1 = os.path.join(_HERE, "results", "conv1.npz")


def training_error(results: dict) -> Any:
    """A matplotlib figure: the share of wrong answers in training, a curve for each variant.

    Each variant has a run of a seed, and all runs have equally many epochs.
    """
    errors = _curves(results, lambda epoch: 1 - epoch["train"]["top-1"], 0.5)
    return curves([Panel("training error (top-1)", errors, percent=True)], "epochs", _NOTE)


def losses(results: dict) -> Any:
    """A matplotlib figure: each variant's loss on the holdout, and, dashed, in training."""
    drawn = _curves(results, lambda epoch: epoch["holdout"]["loss"], 1)
    drawn += _curves(results, lambda epoch: epoch["train"]["loss"], 0.5, dashed=True)
    return curves([Panel("loss: holdout, and dashed in training", drawn)], "epochs", _NOTE)


def _curves(results, value, at, dashed=False):
    """A curve for each variant; its figures stand ``at`` what part of an epoch.

    Training's are means over the epoch, so they stand at its middle.
    """
    for_all = []
    for name, figures in results["variants"].items():
        ended = [run["epochs"] for run in figures["runs"].values() if "epochs" in run]
        runs = np.array([[value(epoch) for epoch in epochs] for epochs in ended])
        for_all.append(Curve(name, np.arange(runs.shape[1]) + at, runs, dashed))
    return for_all


@styled
def variations(picture: np.ndarray, rows: Sequence[Tuple[str, np.ndarray]]) -> Any:
    """A matplotlib figure: a picture, and at its right rows of what was made of it.

    The picture is (H, W, 3) uint8, a row a title and (N, h, w, 3) uint8.
    """
    strips = [sheet(images, len(images)) for _, images in rows]
    beside = 0.72 * _WIDTH  # inches
    height = sum(beside * page.shape[0] / page.shape[1] + 0.24 for page in strips)
    figure = new_figure(_WIDTH, height)
    grid = figure.add_gridspec(len(rows), 2, width_ratios=[_WIDTH - beside, beside])
    show_pixels(figure.add_subplot(grid[:, 0]), picture, "the image")
    for i, ((title, _), page) in enumerate(zip(rows, strips)):
        axes = figure.add_subplot(grid[i, 1])
        show_pixels(axes, page)
        axes.set_title(title, loc="left")
    return figure


@styled
def before_and_after(before: pictures.Answer, after: pictures.Answer) -> Any:
    """A matplotlib figure: the strongest maps before an operation, and the same after it.

    Both have one scale of colours.
    """
    count = len(before.maps)
    chosen = strongest(before.maps, _MAPS)
    both = map_tiles(np.concatenate([before.maps[chosen], after.maps[chosen]]))
    strips = [framed(both[: len(chosen)]), framed(both[len(chosen) :])]
    height = _WIDTH * strips[0].shape[0] / strips[0].shape[1] + 0.3
    figure = new_figure(_WIDTH, 2 * height)
    for axes, answer, page in zip(figure.subplots(2, 1), (before, after), strips):
        show_pixels(axes, page)
        title = f"{answer.layer}: up to {answer.maps.max():.1f}"
        axes.set_title(f"{title}, {len(chosen)} of {count} maps", loc="left")
    return figure


def relu() -> Any:
    """ReLU against tanh: training error by epochs."""
    return training_error(_results("relu"))


def small() -> Any:
    """The study of 1,000 images: losses in training and on the holdout, by epochs."""
    return losses(_results("small"))


def study() -> Any:
    """The study of the six ideas on CIFAR-10: each variant's accuracy."""
    return study_chart(_results("cifar10"))


def _results(name):
    with open(os.path.join(_HERE, "results", f"{name}.json"), encoding="utf-8") as file:
        return json.load(file)


def keep_conv1(prefix: str, epoch: int) -> None:
    """Write a checkpoint's first layer to docs/results/conv1.npz.

    UserError if there is no such checkpoint, or its first layer is not AlexNet's.
    """
    _, (_, weights, _) = network.load(prefix, epoch, [mx.cpu()])
    if "conv1_weight" not in weights or weights["conv1_weight"].shape != (96, 3, 11, 11):
        raise cli.UserError(f"{prefix}: has not AlexNet's conv1; give a checkpoint of make demo")
    arrays = {name: weights[name].asnumpy() for name in ("conv1_weight", "conv1_bias")}
    with atomic(CONV1) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def conv1() -> Dict[str, np.ndarray]:
    """The first layer of the demo's network: conv1_weight (96, 3, 11, 11), conv1_bias (96,)."""
    with np.load(CONV1) as arrays:
        return dict(arrays)


def kernels() -> Any:
    """The first layer's kernels."""
    title = "conv1 after the demo: 96 kernels of 11x11, each on its own scale"
    return pictures.kernels(conv1()["conv1_weight"], title)


def answers() -> List[np.ndarray]:
    """conv1's maps of the scene before and after LRN, (96, 15, 15) each, as the demo's net has."""
    preparation = Preparation.from_args(recipes.recipe("alexnet", "cifar10").settings)
    image = preparation.apply(np.ascontiguousarray(scene(256)[:, :, ::-1]))[None]
    weights = {name: mx.nd.array(array) for name, array in conv1().items()}
    whole = symbols.get_symbol("alexnet", 10), weights, {}
    found = []
    for layer in ("activation0", "lrn0"):
        module = network.bind(*network.up_to(whole, layer), image.shape, [mx.cpu()])
        found.append(network.outputs(module, mx.nd.array(image)).asnumpy()[0])
    return found


def lrn() -> Any:
    """conv1's maps before and after LRN."""
    before, after = answers()
    return before_and_after(
        pictures.Answer("conv1 after ReLU", before), pictures.Answer("after LRN", after)
    )


def augmentation() -> Any:
    """The scene as training sees it, by more and more of the article's augmentation."""
    rows = {
        "crops": ["--random-mirror", "0", "--pca-noise", "0"],
        "crops, half of them mirrored": ["--pca-noise", "0"],
        "crops, mirrored, with lighting": [],
        "the same, lighting five times as strong as in training": ["--pca-noise", "0.5"],
    }
    settings = recipes.recipe("alexnet", "imagenet").settings
    picture = scene(settings["resize"])
    views = [(title, seen(picture, settings, words)) for title, words in rows.items()]
    return variations(picture, views)


def seen(picture: np.ndarray, settings: Dict[str, Any], words: List[str]) -> np.ndarray:
    """Six times what a training run with these settings and flags sees of the picture.

    They are (6, height, width, 3) uint8, R, G, B.
    """
    parser = cli.ArgumentParser()
    add_args(parser)
    parser.set_defaults(**settings)
    args = parser.parse_args(words, argparse.Namespace(seed=0))
    preparation = Preparation.from_args(settings)
    with tempfile.TemporaryDirectory() as folder:
        prefix = os.path.join(folder, "scene")
        encoded = cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()
        with create_records(prefix) as writer:
            for _ in range(_TIMES):
                writer.write(0, encoded)
        records = pipeline.checked_records(f"{prefix}.rec", 1)
        augmented = Augmentation.from_args(args)
        data = TrainingData(records, _TIMES, 1, _TIMES, preparation, augmented)
        batches = pipeline.training_iterator(data, mx.cpu())
        batch = next(batches)
        batches.stop()  # it reads ahead, and its file is about to go
        return np.stack([preparation.shown(image) for image in batch.data[0].asnumpy()])


PICTURES = (study, relu, augmentation, kernels, lrn, small)


def main() -> None:
    """Draw all of them."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--model-prefix", help="of a checkpoint of the demo")
    parser.add_argument("--load-epoch", type=int, help="which of its checkpoints")
    args = parser.parse_args()
    if (args.model_prefix is None) != (args.load_epoch is None):
        raise cli.UserError("--model-prefix and --load-epoch: give both or none")
    style.check("docs/draw.py")
    if args.model_prefix is not None:
        keep_conv1(args.model_prefix, args.load_epoch)
    for draw in PICTURES:
        path = os.path.join(_HERE, "pictures", f"{draw.__name__}.png")
        style.write(draw(), path)
        print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(main)
