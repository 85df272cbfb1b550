"""Scripts that make a checkpoint in one go: their flags, and how it is written."""

import argparse
import contextlib
import os
from typing import Callable, Iterator, Optional, Tuple

from common.cli import UserError
from common.io.lock import lock
from common.runtime.mxnet import mx

from . import store

Network = Tuple[mx.sym.Symbol, dict, dict]


def add_args(parser: argparse.ArgumentParser, suffix: Optional[str] = None) -> None:
    """Add --overwrite and --out-prefix, whose default is --model-prefix with ``suffix``, if any."""
    default = f"; default: MODEL_PREFIX{suffix}" if suffix else ""
    parser.add_argument(
        "--out-prefix", required=suffix is None, help=f"of the new checkpoint{default}"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the checkpoints at --out-prefix"
    )


def resolve_prefix(args: argparse.Namespace, suffix: str) -> None:
    """Set ``args.out_prefix`` to its default unless given; UserError if it is --model-prefix."""
    args.out_prefix = args.out_prefix or f"{args.model_prefix}{suffix}"
    if os.path.realpath(args.out_prefix) == os.path.realpath(args.model_prefix):
        raise UserError(f"--out-prefix {args.out_prefix}: is --model-prefix; choose another")


@contextlib.contextmanager
def new_checkpoint(
    prefix: str, number: int, overwrite: bool
) -> Iterator[Callable[[Network, dict], str]]:
    """Yield a function that writes the one checkpoint at ``prefix``; call it once, at the end.

    It takes (symbol, arg_params, aux_params) and the config's entries, and returns the name of the
    weights' file. Config and weights appear together. Until it is called nothing has changed;
    afterwards there is no other checkpoint at ``prefix``. UserError if there are checkpoints
    already and ``overwrite`` is false, or another run writes there.
    """
    with lock(prefix, "--out-prefix") as locked:
        store.check_free(prefix, overwrite, "--out-prefix")

        def save(network, config):
            if locked:  # otherwise another run may be using its temporary files
                store.remove_left_over(prefix)
            saved = store.save(prefix, number, *network, config=config)
            store.remove(prefix, keep=(number,))
            return saved

        yield save
