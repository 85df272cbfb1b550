"""A checkpoint's card: what it is, what it was trained on and how, and how well it does."""

import os
from typing import List, Optional, Tuple

from common.checkpoint import store
from common.checkpoint.config import load_config
from common.cli import UserError
from common.evaluate.scores import wilson


def card(prefix: str, epoch: int) -> List[Tuple[str, str]]:
    """What the checkpoint's record and config say, as (term, text), for people to read.

    What they do not say is left out. A damaged record is told in its place.
    """
    rows = []
    try:
        config = load_config(prefix)
        rows = _network(config)
        record = store.load_record(prefix, epoch)
    except UserError as error:
        return [*rows, ("Record", str(error))]
    args = record.get("args") or config["args"]
    texts = {
        "Data": _data(args),
        "Accuracy": _accuracy(record, epoch),
        "Trained": _training(args, epoch),
        "Date": record.get("date"),
    }
    return [*rows, *((term, text) for term, text in texts.items() if text)]


def _network(config):
    args = config["args"]
    shape = "×".join(str(size) for size in args["image_shape"][1:])
    colours = "grey" if args["image_shape"][0] == 1 else "RGB"
    kind = f"{args.get('network') or 'of another program'}, {shape} {colours}"
    return [("Network", kind + (", int8" if "int8" in config else ""))]


def _data(args):
    known = [args.get("dataset"), os.path.basename(args.get("data_train") or "")]
    return ", ".join(filter(None, [*known, f"{args.get('num_classes')} classes"]))


def _accuracy(record, epoch) -> Optional[str]:
    """Top-1 on the validation images, with its 95% interval where their number is known."""
    measured = record.get("validation")
    if measured and record["reported"]:  # else it is an earlier epoch's
        right, images = measured["right"], measured["images"]
        low, high = wilson(right, images)
        return f"{right / images:.1%} top-1 ({low:.1%} to {high:.1%}) of {images:,} images"
    best = record.get("best") or {}
    return f"{best['top-1']:.1%} top-1 in validation" if best.get("epoch") == epoch else None


def _training(args, epoch) -> Optional[str]:
    if "num_epochs" not in args:
        return None
    rate = f"{args['optimizer']}, learning rate {args['lr']:g}, batch {args['batch_size']}"
    return f"{epoch} of {args['num_epochs']} epochs, {rate}, seed {args['seed']}"
