"""What a study is: variants of one training run, the rates to choose from, seeds, record files.

A study is a JSON file, such as studies/cifar10.json. Its flags are train_imagenet.py's, as on a
command line:

- about: a sentence on what it compares.
- records: the record files "train", "holdout" (to choose rates on) and "test".
- flags: of all runs, the data set's recipe among them.
- choose: "rates", factors of each variant's own rate, and "flags" of the runs that try them.
- seeds: of the final runs.
- variants: {name: its flags}. The first one is the baseline.
- more_seeds, which may be left out: {name: seeds} of variants that the seeds above cannot tell from
  the baseline.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import shlex
from typing import Dict, List

from common import cli
from common.cli import UserError
from common.train import recipes

_KEYS = ("about", "records", "flags", "choose", "seeds", "variants")
_MORE = "more_seeds"
_RECORDS = ("train", "holdout", "test")
# The study sets these itself.
_OWN = {
    "seed", "data_train", "data_val", "model_prefix", "resume", "overwrite", "load_epoch", "keep",
}  # fmt: skip
_EQUAL = {"num_epochs", "num_examples"}  # for all variants
REMEDY = "common/study/definition.py says what a study holds"


@dataclasses.dataclass(frozen=True)
class Study:
    """A study; ``path`` is its file, the rest that file's entries, flags as lists of words."""

    path: str
    about: str
    records: Dict[str, str]
    flags: List[str]
    choosing: List[str]
    rates: List[float]
    seeds: List[int]
    variants: Dict[str, List[str]]
    more_seeds: Dict[str, List[int]]

    def seeds_of(self, variant: str) -> List[int]:
        """The seeds of a variant's final runs."""
        return [*self.seeds, *self.more_seeds.get(variant, [])]

    def settings(self, variant: str, choosing: bool = False) -> argparse.Namespace:
        """What a variant's flags resolve to: network, dataset, batch_size, lr and the length.

        UserError if a flag has a wrong value, or there is no such recipe.
        """
        words = [*self.flags, *(self.choosing if choosing else []), *self.variants[variant]]
        parser = _Parser(add_help=False)
        parser.add_argument("--network", default="alexnet")
        parser.add_argument("--dataset", default="imagenet")
        chosen, _ = parser.parse_known_args(words)
        parser.add_argument("--lr", type=cli.number(above=0))
        parser.add_argument("--image-shape", type=cli.image_shape)
        for flag in ("--num-epochs", "--num-examples", "--batch-size"):
            parser.add_argument(flag, type=cli.positive_int)
        parser.set_defaults(**recipes.recipe(chosen.network, chosen.dataset).settings)
        return parser.parse_known_args(words)[0]

    def entries(self) -> dict:
        """What decides the results, for a comparison with another study's."""
        return {
            "records": {name: os.path.realpath(path) for name, path in self.records.items()},
            "flags": self.flags,
            "choose": self.choosing,
            "rates": self.rates,
            "seed of the runs that choose": self.seeds[0],
        }


class _Parser(cli.ArgumentParser):
    def error(self, message):
        raise UserError(message)


def read(path: str) -> Study:
    """Read and check a study's file; UserError names the entry and the cause."""
    with open(path, encoding="utf-8") as file:
        try:
            entries = json.load(file)
        except ValueError as error:
            raise UserError(f"{path}: is not JSON ({error}); {REMEDY}")
    try:
        study = _study(path, entries)
        _check(study)
        for variant in study.variants:
            study.settings(variant, choosing=True)
    except UserError as error:
        raise UserError(f"{path}: {error}; {REMEDY}")
    return study


def _study(path, entries):
    if not isinstance(entries, dict) or set(entries) - {_MORE} != set(_KEYS):
        raise UserError(f"its entries are not {', '.join(_KEYS)}")
    try:
        return Study(
            path=path,
            about=str(entries["about"]),
            records={name: str(entries["records"][name]) for name in _RECORDS},
            flags=_words(entries["flags"]),
            choosing=_words(entries["choose"]["flags"]),
            rates=[float(rate) for rate in entries["choose"]["rates"]],
            seeds=[int(seed) for seed in entries["seeds"]],
            variants={name: _words(text) for name, text in entries["variants"].items()},
            more_seeds={
                name: [int(seed) for seed in seeds]
                for name, seeds in entries.get(_MORE, {}).items()
            },
        )
    except KeyError as error:
        raise UserError(f"lacks {error}")
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"an entry has a wrong form ({error})")


def _words(flags):
    if not isinstance(flags, str):  # shlex.split(None) would read stdin
        raise TypeError(f"flags are a text, not {flags!r}")
    return shlex.split(flags)


def _check(study):
    if not study.variants:
        raise UserError("variants: there is none")
    for name in study.more_seeds:
        if name not in study.variants:
            raise UserError(f"{_MORE}: there is no variant {name}")
    own = {f"seeds of {name}": study.seeds_of(name) for name in study.more_seeds}
    lists = {"seeds": study.seeds, **own, "rates": study.rates}
    for name, listed in lists.items():
        if not listed or len({f"{value:g}" for value in listed}) < len(listed):  # folders' names
            raise UserError(f"{name}: has to have entries, each of them once")
    if not all(0 < rate < math.inf for rate in study.rates) or min(map(min, lists.values())) < 0:
        raise UserError("rates have to be above 0, seeds at least 0")
    for variant, words in study.variants.items():
        if not re.fullmatch(r"\w[\w.-]*", variant):
            raise UserError(f"variant '{variant}': its name is a folder's; take letters, digits, -")
        _check_flags(f"variant {variant}", words, _OWN | _EQUAL)
    _check_flags("flags", study.flags, _OWN)
    _check_flags("choose", study.choosing, _OWN | {"lr"})


def _check_flags(where, words, forbidden):
    for word in words:
        name = word.partition("=")[0].lstrip("-").replace("-", "_")
        if word.startswith("--") and name in forbidden:
            raise UserError(f"{where}: the study itself sets {word.partition('=')[0]}")
