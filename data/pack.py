"""Pictures encoded by several processes: what the scripts that make record files share.

A script gives :func:`encode_all` an ordered stream of (name, label, bytes or path) and writes what
comes back in the same order. However many processes, the result is the same.
"""

import argparse
import functools
import sys
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple, Union

from common import cli
from common.cli import UserError
from common.io import cpus
from common.io.limits import is_limit, limit_reached
from common.records.picture import Unreadable, encode
from data import workers as pool

Item = Tuple[str, Any, Union[bytes, str]]  # name, label or part, picture's bytes or path


def encode_all(
    items: Iterable[Item], workers: int, changes: Optional[List[str]] = None, **settings
) -> Iterator[Tuple[str, Any, Union[bytes, Unreadable]]]:
    """Yield (name, label, bytes or Unreadable) for each of ``items``, in order.

    ``items`` and ``workers`` are as :func:`data.workers.run` takes them, ``settings`` as
    :func:`common.records.picture.encode` does; ``changes`` is extended by what that says of each
    picture.
    """
    attempt = functools.partial(_attempt, settings)
    results = pool.run(attempt, items, workers, "--workers", lambda item: item[0])
    for (name, label, _), (image, changed) in results:
        if changes is not None:
            changes += changed
        yield name, label, image


def _attempt(settings, item):
    """The picture, or why there is none; and what its pixels needed."""
    name, _, source = item
    changes: List[str] = []
    try:
        if isinstance(source, str):
            with open(source, "rb") as file:
                source = file.read()
        return encode(source, changes=changes, **settings), changes
    except OSError as error:
        if is_limit(error):
            raise UserError(f"{name}: cannot be read: {limit_reached(error)}")
        return Unreadable(error.strerror), []
    except Unreadable as error:
        return error, []


def report(bad: List[Tuple[str, str]], written: Dict[str, int], skip_bad: bool) -> None:
    """Name the unreadable pictures, (name, cause), on stderr; refuse them unless ``skip_bad``.

    ``written`` has the number of records by the prefix of an output; none may be empty.
    """
    for name, cause in bad:
        print(f"unreadable: {name}: {cause}", file=sys.stderr)
    count = f"{len(bad)} of {len(bad) + sum(written.values())} images cannot be read"
    if bad and not skip_bad:
        raise UserError(
            f"{count} (named above); mend or remove them, or leave them out with --skip-bad"
        )
    for prefix, records_written in written.items():
        if not records_written:
            raise UserError(f"{prefix}.rec: there is no readable image to write")
    if bad:
        print(f"{count} and were left out", file=sys.stderr)


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every packing script has."""
    add = parser.add_argument
    add(
        "--resize",
        type=cli.number(int, least=0),
        default=256,
        help="scale the short side down to this many pixels, never up; 0 keeps every size",
    )
    add(
        "--center-crop",
        action="store_true",
        help="store the central square only, as AlexNet's paper does (with --resize 256)",
    )
    add(
        "--quality", type=cli.number(int, least=1, most=100), default=95, help="of a JPEG, 1 to 100"
    )
    add("--encoding", choices=[".jpg", ".png"], default=".jpg", help="of the stored images")
    add("--workers", type=cli.positive_int, default=cpus.available(), help="processes")
    add("--skip-bad", action="store_true", help="leave unreadable images out; they are still named")
    add("--overwrite", action="store_true", help="replace existing output")


def options(args: argparse.Namespace) -> dict:
    """Those values of :func:`add_args` that :func:`encode_all` takes."""
    taken = ("resize", "quality", "encoding", "center_crop", "workers")
    return {name: getattr(args, name) for name in taken}
