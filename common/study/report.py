"""A study's results: every figure as JSON, a row for each variant as CSV, a table of Markdown.

python -m common.study.report docs/results/relu.json --error 0.4      # prints the table
"""

import csv
import json
import statistics
from typing import Dict, List, Optional

from common import cli
from common.io.files import atomic

from .folder import Folder, finals, trials

_COLUMNS = ("variant", "flags", "lr", "seeds", "top-1", "spread", "difference", "train top-1")
_COLUMNS += ("train loss", "loss", "seconds", "img/s")


def collect(folder: Folder) -> dict:
    """Everything that is known of a study's runs so far.

    Each of "variants" has "flags", "rates" (each tried rate's holdout figures), "lr", "runs" (each
    seed's figures) and, once there is a run, the means over seeds "top-1", "loss", "train",
    "seconds", "img_per_s", the "spread" of top-1 (largest - smallest) and its "difference" to the
    baseline's mean. "missing" lists the runs that have not ended.
    """
    study = folder.study
    variants = {name: _variant(folder, name) for name in study.variants}
    baseline = next(iter(variants.values())).get("top-1")
    for figures in variants.values():
        if baseline is not None and "top-1" in figures:
            figures["difference"] = figures["top-1"] - baseline
    runs = [*trials(study), *finals(study)]
    return {
        "study": study.path,
        "about": study.about,
        "records": study.records,
        "flags": " ".join(study.flags),
        "choose": {"flags": " ".join(study.choosing), "rates": study.rates},
        "seeds": study.seeds,
        "missing": [run.name for run in runs if folder.result(run) is None],
        "variants": variants,
    }


def _variant(folder, name):
    study, rates = folder.study, folder.rates()
    base = study.settings(name).lr
    figures = {"flags": " ".join(study.variants[name]), "rates": {}, "runs": {}}
    for run in [*trials(study), *finals(study)]:
        result = folder.result(run) if run.variant == name else None
        if result and run.is_trial:
            figures["rates"][f"{base * run.rate:g}"] = _scored(result)
        elif result:
            figures["runs"][str(run.seed)] = _final(result)
    if name in rates:
        figures["lr"] = base * rates[name]
    if _ended(figures):
        figures.update(_over_seeds(_ended(figures)))
    return figures


def _scored(result):
    """Top-1 and loss of a run, or why it has none."""
    if "diverged" in result:
        return {"diverged": result["diverged"]}
    return {"top-1": result["score"]["top-1"], "loss": result["score"]["loss"]}


def _final(result):
    if "diverged" in result:
        return _scored(result)
    epochs = result["epochs"]
    return {
        **_scored(result),
        "interval95": result["score"]["interval95"]["top-1"],
        "epochs": [{"train": e["train"], "holdout": e.get("val")} for e in epochs],
        "seconds": sum(result["images"] / e["img_per_s"] for e in epochs),
        "img_per_s": statistics.harmonic_mean([e["img_per_s"] for e in epochs]),
        "cpu": result["cpu"],
        "versions": result["versions"],
        "command": result["command"],
    }


def _over_seeds(runs: List[dict]) -> dict:
    top1 = [run["top-1"] for run in runs]
    last = [run["epochs"][-1]["train"] for run in runs]
    mean = statistics.mean
    return {
        "top-1": mean(top1),
        "spread": max(top1) - min(top1),
        "loss": mean(run["loss"] for run in runs),
        "train": {name: mean(figures[name] for figures in last) for name in ("top-1", "loss")},
        "seconds": mean(run["seconds"] for run in runs),
        "img_per_s": mean(run["img_per_s"] for run in runs),
    }


def write(results: dict, prefix: str) -> List[str]:
    """Write PREFIX.json and PREFIX.csv; returns their paths."""
    paths = [f"{prefix}.json", f"{prefix}.csv"]
    with atomic(*paths) as (as_json, as_csv):
        with open(as_json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
        with open(as_csv, "w", encoding="utf-8-sig", newline="") as file:  # as confusion's
            writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(_row(name, row) for name, row in results["variants"].items())
    return paths


def _row(name: str, figures: dict) -> Dict[str, object]:
    row: Dict[str, object] = {"variant": name, "flags": figures["flags"]}
    row["seeds"] = len(_ended(figures))
    if "lr" in figures:
        row["lr"] = f"{figures['lr']:g}"
    if row["seeds"]:
        for column in ("top-1", "spread", "difference", "loss"):
            if column in figures:
                row[column] = round(figures[column], 4)
        row.update({f"train {name}": round(value, 4) for name, value in figures["train"].items()})
        row["seconds"], row["img/s"] = round(figures["seconds"]), round(figures["img_per_s"])
    return row


def table(results: dict, error: Optional[float] = None) -> str:
    """The variants with their accuracies, as a table of Markdown.

    With ``error`` it has the epochs that training took to this share of wrong answers, too.
    """
    headings = (
        "variant | rate | top-1 | spread | difference | loss | train top-1 | train loss | seeds"
    )
    lines = [f"| {headings} |", "|---" * (headings.count("|") + 1) + "|"]
    for name, figures in results["variants"].items():
        if "top-1" not in figures:
            lines.append(f"| {name} |" + " |" * 8)
            continue
        difference = f"{100 * figures['difference']:+.2f}" if "difference" in figures else ""
        train = figures["train"]
        lines.append(
            f"| {name} | {figures['lr']:g} | {figures['top-1']:.2%} | {100 * figures['spread']:.2f}"
            f" | {difference} | {figures['loss']:.3f} | {train['top-1']:.2%}"
            f" | {train['loss']:.3f} | {len(_ended(figures))} |"
        )
    if error is None:
        return "\n".join(lines)
    lines[0] += f" epochs to {error:.0%} training error |"
    lines[1] += "---|"
    for n, figures in enumerate(results["variants"].values(), 2):
        reached = [epochs_to(run["epochs"], error) for run in _ended(figures)]
        lines[n] += " " + ", ".join(map(_epochs, reached)) + " |"
    return "\n".join(lines)


def _ended(figures):
    return [run for run in figures["runs"].values() if "top-1" in run]


def _epochs(number):
    return "not reached" if number is None else f"{number:.1f}"


def epochs_to(epochs: List[dict], error: float) -> Optional[float]:
    """After how many epochs of a run at most ``error`` of the training images were wrong.

    An epoch's figure is the mean over the epoch, so it counts for its middle; between two of them
    the line is straight. None: that was never so.
    """
    before = None
    for epoch, figures in enumerate(epochs, 1):
        wrong, at = 1 - figures["train"]["top-1"], epoch - 0.5
        if wrong <= error:
            if before is None:
                return at
            share = (before - error) / (before - wrong)
            return at - 1 + share
        before = wrong
    return None


def main() -> None:
    """Print the table of a result file."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("results", metavar="RESULTS.json", help="what ablate.py --report wrote")
    parser.add_argument(
        "--error",
        type=cli.number(above=0, below=1),
        help="add the epochs to this share of wrong answers on the training images",
    )
    args = parser.parse_args()
    with open(args.results, encoding="utf-8") as file:
        try:
            print(table(json.load(file), args.error))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise cli.UserError(f"{args.results}: is not what --report writes ({error!r})")


if __name__ == "__main__":
    cli.run(main)
