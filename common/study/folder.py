"""The folder of a study: a run of it is a folder there, and its files tell how far it has come."""

import os
import re
from typing import Dict, Iterator, List, NamedTuple, Optional

from common.cli import UserError
from common.io.files import TEMPORARY, check_is_local, read_json, save_json

from .definition import Study


class Run(NamedTuple):
    """One training run: it tries a rate, a factor of the variant's, or is a final one of a seed."""

    variant: str
    rate: Optional[float] = None
    seed: Optional[int] = None

    @property
    def name(self) -> str:
        """The run's folder."""
        tried = f"rate{self.rate:g}" if self.is_trial else f"seed{self.seed}"
        return f"{self.variant}-{tried}"

    @property
    def is_trial(self) -> bool:
        """Whether it tries a rate, which is scored on the holdout."""
        return self.rate is not None


def trials(study: Study) -> List[Run]:
    """The runs that try rates; none if there is but one."""
    rates = study.rates if len(study.rates) > 1 else []
    return [Run(variant, rate) for variant in study.variants for rate in rates]


def finals(study: Study) -> List[Run]:
    """The runs whose results are the study's, seed by seed."""
    runs = [
        Run(variant, seed=seed) for variant in study.variants for seed in study.seeds_of(variant)
    ]
    return sorted(runs, key=lambda run: study.seeds_of(run.variant).index(run.seed))


class Folder:
    """The files of a study in ``path``."""

    def __init__(self, study: Study, path: str):
        self.study, self.path = study, path

    def of(self, run: Run, *names: str) -> str:
        """The path of a run's file, or of its folder."""
        return os.path.join(self.path, run.name, *names)

    def prefix(self, run: Run) -> str:
        """--model-prefix of a run."""
        return self.of(run, "net")

    def result(self, run: Run) -> Optional[dict]:
        """What is known of a run that has ended; None before.

        Its key "diverged" holds the last line of a run whose loss became not finite.
        """
        remedy = "delete it, and the study goes on without it"
        return self._read(os.path.join(run.name, "result.json"), remedy)

    def save_result(self, run: Run, result: dict) -> None:
        """Mark a run as ended."""
        save_json(self.of(run, "result.json"), result)

    def check(self) -> None:
        """Raise UserError if the folder holds another study."""
        check_is_local(self.path, "--out")
        before = self._read("study.json")
        if before is None:
            own = re.compile(r"study\.lock|study\.json" + TEMPORARY)
            names = os.listdir(self.path) if os.path.isdir(self.path) else []
            if not all(map(own.fullmatch, names)):
                raise UserError(f"--out {self.path}: holds other files; give a new folder")
            return
        remedy = f"give another --out, or the file that {self.path} was made with"
        for name, value in self.study.entries().items():
            if before["entries"].get(name) != value:
                raise UserError(
                    f"--out {self.path}: is of a study with other {name} than {self.study.path};"
                    f" {remedy}"
                )
        for variant, words in self.study.variants.items():
            if before["variants"].get(variant, words) != words:
                raise UserError(
                    f"--out {self.path}: there {variant} has other flags than in"
                    f" {self.study.path}; {remedy}, or take another name"
                )

    def files(self) -> List[str]:
        """The files that say what the study is and what was chosen."""
        names = ("study.json", "chosen.json")
        return [self.study.path, *(os.path.join(self.path, name) for name in names)]

    def begin(self) -> None:
        """Write which study this is; its variants join those that have been there before."""
        before = self._read("study.json") or {"variants": {}}
        variants = {**before["variants"], **self.study.variants}
        now = {"entries": self.study.entries(), "variants": variants}
        if now != before:
            save_json(os.path.join(self.path, "study.json"), now)

    def rates(self) -> Dict[str, float]:
        """The chosen factors of those variants whose trials have all ended; these stay."""
        if len(self.study.rates) == 1:
            return dict.fromkeys(self.study.variants, self.study.rates[0])
        return {**dict(self._newly_chosen()), **self._chosen()}

    def keep_rates(self) -> None:
        """Write the chosen factors to chosen.json."""
        rates = self.rates()
        if rates != self._chosen():
            save_json(os.path.join(self.path, "chosen.json"), {"rates": rates})

    def _chosen(self):
        return (self._read("chosen.json") or {"rates": {}})["rates"]

    def _newly_chosen(self) -> Iterator:
        for variant in self.study.variants:
            own = [run for run in trials(self.study) if run.variant == variant]
            tried = {run.rate: self.result(run) for run in own}
            if all(tried.values()):
                scored = [
                    (r["score"]["top-1"], -r["score"]["loss"], rate)
                    for rate, r in tried.items()
                    if "score" in r
                ]
                if scored:
                    yield variant, max(scored)[-1]

    def _read(self, name, remedy="give another --out"):
        try:
            return read_json(os.path.join(self.path, name), remedy)
        except FileNotFoundError:
            return None
