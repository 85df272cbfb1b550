"""Scripts that make a checkpoint in one go: their flags, and how it is written."""

import argparse
import contextlib
from typing import Callable, Iterator, Tuple

from common.io.lock import lock
from common.runtime.mxnet import mx

from . import store

Network = Tuple[mx.sym.Symbol, dict, dict]


def add_args(parser: argparse.ArgumentParser, default: str = "") -> None:
    """Add --out-prefix and --overwrite; ``default`` describes the prefix that is not given."""
    required, said = not default, f"; default: {default}" if default else ""
    parser.add_argument("--out-prefix", required=required, help=f"of the new checkpoint{said}")
    parser.add_argument("--overwrite", action="store_true", help="checkpoints at --out-prefix")


@contextlib.contextmanager
def new_checkpoint(
    prefix: str, number: int, overwrite: bool
) -> Iterator[Callable[[Network, dict], str]]:
    """Yield a function that writes the one checkpoint at ``prefix``; call it once, at the end.

    It takes (symbol, arg_params, aux_params) and the config's entries, and returns the name of the
    weights' file. Config and weights appear together. Until it is called nothing has changed;
    afterwards there is no other checkpoint at ``prefix``.

    Raises:
        UserError: there are checkpoints already and ``overwrite`` is false, another run writes
            there, or the files cannot be written.
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
