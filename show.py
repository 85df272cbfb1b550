"""Draw what a network has learned and what it makes of a picture.

    python show.py kernels --model-prefix checkpoints/alexnet-cifar10 --load-epoch 3
    python show.py maps cat.jpg --model-prefix ... --load-epoch 3     what each layer answers
    python show.py where cat.jpg --model-prefix ... --load-epoch 3    which region decides
    python show.py nearest cat.jpg --data-train train.rec --model-prefix ... --load-epoch 3
    python show.py mistakes --data-val val.rec --model-prefix ... --load-epoch 3
    python show.py network alexnet2012                                its diagram

Each writes --out, a PNG or an SVG file.
"""

import argparse
import os
from typing import Any, List, Tuple

import numpy as np
from tqdm import tqdm

import symbols
from common import cli
from common.checkpoint import store
from common.checkpoint.config import load_config
from common.cli import UserError
from common.draw import network, pictures, style
from common.evaluate import nearest, occlusion
from common.evaluate.classifier import Classifier
from common.evaluate.evaluator import Evaluator
from common.evaluate.mistakes import Mistakes
from common.evaluate.network import activations, check_finite, class_names, first_kernels
from common.input import pipeline
from common.input.preparation import images_at
from common.io import cpus
from common.runtime.mxnet import mx


def parse_args() -> argparse.Namespace:
    """The command line; ``args.draw`` is the function that makes the figure."""
    parser = cli.ArgumentParser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, draw, add_args, text in (
        ("kernels", kernels, None, "the first layer's kernels"),
        ("maps", maps, _map_args, "what each layer answers to a picture"),
        ("where", where, _where_args, "which region of a picture decides: parts of it are hidden"),
        ("nearest", near, _near_args, "the training pictures that the network finds most alike"),
        ("mistakes", mistakes, _mistake_args, "the wrong guesses that a network is most sure of"),
        ("network", diagram, _diagram_args, "a network's diagram"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(draw=draw)
        if add_args:
            add_args(command.add_argument)
        if draw is not diagram:
            store.add_args(command)
            command.add_argument("--batch-size", type=cli.positive_int, default=32)
        style.add_out(command, f"{name}.png")
    return parser.parse_args()


def _layers(text):
    """An argparse type: 'conv1,conv2' -> their names."""
    names = text.split(",")
    if not all(names):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of layers such as conv1,conv2")
    return names


def _map_args(add):
    add("image", metavar="IMAGE", help="a picture file")
    add(
        "--layers",
        type=_layers,
        metavar="A,B",
        help="names in the table of python -m symbols; default: each convolution's activation",
    )


def _where_args(add):
    add("image", metavar="IMAGE", help="a picture file")
    add("--class-name", metavar="NAME", help="whose probability counts; default: the first guess")


def _near_args(add):
    add("images", nargs="+", metavar="IMAGE", help="picture files; each is a row")
    add("--data-train", required=True, metavar="X.rec", help="records of the training pictures")
    add("--layer", default="fc2", help="whose outputs are compared")
    add("--count", type=cli.number(int, least=1, most=12), default=6, help="pictures in a row")
    add(
        "--index",
        metavar="X.npy",
        type=cli.new_file_of(".npy"),
        help="the training pictures' features; computed if it is not there; default: beside the"
        " checkpoint",
    )


def _mistake_args(add):
    add("--data-val", required=True, metavar="X.rec", help="records of pictures not trained on")
    add("--count", type=cli.number(int, least=1, most=60), default=24, help="pictures")


def _diagram_args(add):
    add("network", type=symbols.known, metavar="NETWORK", help=", ".join(symbols.NETWORKS))
    add("--image-shape", type=cli.image_shape, help="such as 3,227,227; default: the network's own")
    add("--num-classes", type=cli.positive_int, help="default: the network's own")


def load(args: argparse.Namespace) -> Classifier:
    """The checkpoint that the command line names, which has to be of a run that did not diverge."""
    classifier = Classifier(args.model_prefix, args.load_epoch, args.batch_size)
    check_finite(classifier.network, store.params_path(args.model_prefix, args.load_epoch))
    return classifier


def title(args: argparse.Namespace) -> str:
    """The checkpoint's name in a picture."""
    return f"{os.path.basename(args.model_prefix)}, epoch {args.load_epoch}"


def kernels(args: argparse.Namespace) -> Any:
    """A figure of the first layer's kernels, those of two columns apart."""
    classifier = load(args)
    name, weights = first_kernels(classifier.network)
    shape = classifier.preparation.image_shape
    halves = any(volume.halves for volume in network.volumes(classifier.network[0], shape))
    count, _, height, width = weights.shape
    text = f"{title(args)}: {name}, {count} kernels of {height}x{width}, each on its own scale"
    return pictures.kernels(weights, text, 2 if halves and count % 2 == 0 else 1)


def maps(args: argparse.Namespace) -> Any:
    """A figure of what layers answer to the picture."""
    classifier = load(args)
    image = classifier.prepare(args.image)
    named = args.layers and {layer: layer for layer in args.layers}
    answers = []
    for layer, text in (named or activations(classifier.network)).items():
        answer = next(classifier.outputs([image], layer))
        if answer.ndim != 3:
            raise UserError(f"--layers {layer}: has no maps, but {answer.size} numbers")
        answers.append(pictures.Answer(text, answer))
    if not answers:
        raise UserError(f"{args.model_prefix}: has no layer Convolution; name some with --layers")
    return pictures.maps(classifier.preparation.shown(image), answers, _guess(classifier, image))


def _guess(classifier, image) -> str:
    best = classifier.guesses(next(classifier.outputs([image])), 1)[0]
    return f"{best.name}: {best.probability:.0%}"


def where(args: argparse.Namespace) -> Any:
    """A figure of the region of the picture that decides."""
    classifier = load(args)
    if args.class_name not in (None, *classifier.classes):
        raise UserError(
            f"--class-name {args.class_name}: is none of the {len(classifier.classes)} classes,"
            f" such as {', '.join(classifier.classes[:10])}"
        )
    image = classifier.prepare(args.image)
    plan = occlusion.plan(image)
    answers, images = classifier.outputs(plan.hidden()), len(plan.corners) + 1
    whole, *hidden = tqdm(answers, "hiding parts", images, leave=False, disable=None)
    name = args.class_name or classifier.classes[int(whole.argmax())]
    number = classifier.classes.index(name)
    heat = plan.heat(whole[number] - np.array(hidden)[:, number])
    picture = classifier.preparation.shown(image)
    return pictures.occlusion(picture, heat, name, float(whole[number]))


def near(args: argparse.Namespace) -> Any:
    """A figure of the training pictures nearest to the pictures."""
    classifier = load(args)
    images = [classifier.prepare(path) for path in args.images]
    features = list(classifier.outputs(images, args.layer))  # the layer's name is checked by it
    records = _records(args, args.data_train)
    index = nearest.open_index(args.index, classifier, args.layer, records)
    rows = []
    for name, image, row in zip(args.images, images, features):
        found = nearest.nearest(index, row, args.count)
        shown, titles = _found(classifier, records, found)
        picture = classifier.preparation.shown(image)
        rows.append(pictures.Neighbours(picture, os.path.basename(name), shown, titles))
    return pictures.nearest(rows)


def _records(args, path):
    config = load_config(args.model_prefix)
    return pipeline.checked_records(path, len(class_names(config)), classes=config["classes"])


def _found(classifier, records, found) -> Tuple[List[np.ndarray], List[Tuple[str, float]]]:
    """The pictures of (record, figure) pairs, in their order, and (class, figure) of each."""
    numbers = sorted(i for i, _ in found)
    images = dict(zip(numbers, images_at(records, np.array(numbers), classifier.preparation)))
    shown = [classifier.preparation.shown(images[i]) for i, _ in found]
    return shown, [(classifier.classes[int(records.labels[i])], far) for i, far in found]


def mistakes(args: argparse.Namespace) -> Any:
    """A figure of the wrong guesses that are most probable, with the true class above each."""
    classifier, records = load(args), _records(args, args.data_val)
    symbol, *weights = classifier.network
    reading = classifier.preparation, args.batch_size, cpus.available()
    scores = Mistakes(1, args.count)
    Evaluator(symbol, [mx.cpu()], records, *reading).evaluate(*weights, scores)
    worst = scores.mistakes
    if not worst:
        raise UserError(f"{args.data_val}: there is no mistake in its {len(records)} images")
    shown, true = _found(classifier, records, [(one.number, one.share) for one in worst])
    titles = [
        (name, f"{share:.0%} {classifier.classes[one.guess]}")
        for one, (name, share) in zip(worst, true)
    ]
    return pictures.labelled(shown, titles)


def diagram(args: argparse.Namespace) -> Any:
    """A figure of the network's diagram."""
    with cli.blaming("network"):
        symbol = symbols.get_symbol(args.network, args.num_classes)
    shape = args.image_shape or symbols.designed_for(args.network)
    with cli.blaming("--image-shape"):
        symbols.check_image_shape(symbol, shape)
    return network.diagram(symbol, shape, args.network)


def main() -> None:
    """Check everything, draw, write."""
    args = parse_args()
    style.check("--out")
    style.write(args.draw(args), args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    cli.run(main)
