"""The options of ``alexnet`` and ``alexnet2012`` that exchange one of its ideas, as flags."""

import argparse
import inspect
from typing import Mapping

from . import alexnet, layers

NETWORKS = ("alexnet", "alexnet2012")
_ARTICLE = {
    name: inspect.signature(alexnet.get_symbol).parameters[name].default
    for name in ("activation", "dropout", "normalization", "pooling")
}
NAMES = tuple(_ARTICLE)


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each option. None stands for the article's value."""
    add = parser.add_argument_group(f"options of {' and '.join(NETWORKS)}").add_argument
    add("--activation", choices=layers.ACTIVATIONS, help="in place of relu")
    add(
        "--dropout",
        type=_share,
        metavar="SHARE",
        help="of fc1's and fc2's outputs, which training drops, in place of 0.5; 0: none",
    )
    add(
        "--normalization",
        choices=layers.NORMALIZATIONS,
        help="in place of lrn: each tower's channels apart (alexnet2012 only), batch normalization"
        " before or after each activation, or none",
    )
    add("--pooling", choices=layers.POOLINGS, help="windows of 3x3 (overlapping) or 2x2 (plain)")


def _share(text):
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to below 1")
    return share


def resolve(args: argparse.Namespace) -> None:
    """Set the options that have the article's value to None, as if they were not given.

    Raises:
        ValueError: ``args.network`` has no such option.
    """
    for name in NAMES:
        value = getattr(args, name)
        if value is not None and args.network not in NETWORKS:
            raise ValueError(f"{args.network}: has no --{name}; {' and '.join(NETWORKS)} have one")
        if value == _ARTICLE[name]:
            setattr(args, name, None)


def check_same(args: argparse.Namespace, other: Mapping) -> None:
    """Raise ValueError if an option of ``args`` is not that of the arguments ``other``."""
    for name in NAMES:
        if getattr(args, name) != other.get(name):
            raise ValueError(f"its network has another --{name}; leave that flag out")


def given(args: argparse.Namespace) -> dict:
    """What :func:`resolve` left, as keyword arguments of ``symbols.get_symbol``."""
    return {name: getattr(args, name) for name in NAMES if getattr(args, name) is not None}
