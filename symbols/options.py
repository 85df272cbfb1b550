"""The options of networks that exchange one of AlexNet's ideas, as flags."""

import argparse
import inspect
from typing import Mapping

from . import alexnet, layers, lenet

NAMES = ("activation", "dropout", "dropout_form", "normalization", "pooling")


def _defaults(function):
    parameters = inspect.signature(function).parameters
    return {name: parameters[name].default for name in NAMES if name in parameters}


_DEFAULTS = {
    "alexnet": _defaults(alexnet.get_symbol),
    "alexnet2012": _defaults(alexnet.get_symbol),
    "lenet": _defaults(lenet.get_symbol),
}


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each option. None stands for the network's own value."""
    add = parser.add_argument_group("options of alexnet and alexnet2012").add_argument
    add(
        "--activation",
        choices=layers.ACTIVATIONS,
        help="in place of relu; also in place of lenet's tanh",
    )
    add(
        "--dropout",
        type=_share,
        metavar="SHARE",
        help="of fc1's and fc2's outputs, which training drops, in place of 0.5; 0: none",
    )
    add(
        "--dropout-form",
        choices=layers.DROPOUT_FORMS,
        help="dropconnect: that share of the weights of fc1 and fc2 in place of their outputs",
    )
    add(
        "--normalization",
        choices=layers.NORMALIZATIONS,
        help="in place of lrn: each tower's channels apart (alexnet2012 only), batch normalization"
        " before or after each activation, or none",
    )
    add("--pooling", choices=layers.POOLINGS, help="windows of 3x3 (overlapping) or 2x2 (plain)")


def _flag(name):
    return f"--{name.replace('_', '-')}"


def _share(text):
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to below 1")
    return share


def resolve(args: argparse.Namespace) -> None:
    """Set the options that have the network's own value to None, as if they were not given.

    ValueError if ``args.network`` has no such option.
    """
    for name in NAMES:
        value = getattr(args, name)
        own = _DEFAULTS.get(args.network, {})
        if value is not None and name not in own:
            having = " and ".join(network for network in _DEFAULTS if name in _DEFAULTS[network])
            raise ValueError(f"{args.network}: has no {_flag(name)}; {having} have one")
        if value == own.get(name):
            setattr(args, name, None)


def check_same(args: argparse.Namespace, other: Mapping) -> None:
    """Raise ValueError if an option of ``args`` is not that of the arguments ``other``."""
    for name in NAMES:
        if getattr(args, name) != other.get(name):
            raise ValueError(f"its network has another {_flag(name)}; leave that flag out")


def given(args: argparse.Namespace) -> dict:
    """What :func:`resolve` left, as keyword arguments of ``symbols.get_symbol``."""
    return {name: getattr(args, name) for name in NAMES if getattr(args, name) is not None}
