"""Draw the curves of training runs.

    python plot_log.py checkpoints/alexnet-cifar10 --out curves.png
    python plot_log.py runs/*-log.jsonl --out curves.svg

From the logs that train_imagenet.py writes beside its checkpoints, also while it runs. Runs that
differ in nothing but --seed are one curve, with the range of the seeds around it.
"""

import argparse
import os
from typing import List, Tuple

from common import cli
from common.cli import UserError
from common.draw import runs, style
from common.io.history import History, log_path, read_history


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run's --model-prefix, or its log, X-log.jsonl"
    )
    style.add_out(parser, "curves.png")
    return parser.parse_args()


def read(named: List[str]) -> List[Tuple[str, History]]:
    """The runs that the command line names: for each its prefix without folders, and its log.

    UserError if there is no such run, or none has anything to draw.
    """
    found = []
    for name in named:
        path = name if os.path.isfile(name) else log_path(name)
        if not os.path.isfile(path):
            raise UserError(f"{name}: there is neither such a log nor {path}; give --model-prefix")
        title = os.path.basename(path)
        title = title[: -len(log_path(""))] if title.endswith(log_path("")) else title
        found.append((title, read_history(path)))
    if not any(run.epochs or run.batches for _, run in found):
        raise UserError(f"{named[0]}: has neither a batch nor an epoch yet; wait for one")
    return found


def main() -> None:
    """Read all logs, then draw."""
    args = parse_args()
    style.check("--out")
    grouped = runs.groups(read(args.runs))
    style.write(runs.figure(grouped), args.out)
    print(f"wrote {args.out}: {len(args.runs)} runs, {len(grouped)} curves")


if __name__ == "__main__":
    cli.run(main)
