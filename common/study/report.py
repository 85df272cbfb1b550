"""A study's results: every figure as JSON, a row for each variant as CSV."""

import csv
import json
import math
import statistics
from typing import Dict, List, Optional

from common.io.files import atomic

from .folder import Folder, finals, trials

_COLUMNS = ("variant", "flags", "lr", "seeds", "top-1", "spread", "difference", "train top-1")
_COLUMNS += ("train loss", "loss", "seconds", "img/s")


def collect(folder: Folder) -> dict:
    """Everything that is known of a study's runs so far.

    Returns:
        {"study", "about", "flags", "choose", "seeds", "variants": {name: figures}}. A variant has
        "flags", "rates" (each tried rate's holdout figures), "lr", "runs" (each seed's figures)
        and, once there is a run, the means over seeds "top-1", "loss", "train", "seconds",
        "img_per_s", the "spread" of top-1 (largest - smallest) and its "difference" to the
        baseline's mean. "missing" lists the runs that have not ended.
    """
    study = folder.study
    variants = {name: _variant(folder, name) for name in study.variants}
    baseline = next(iter(variants.values())).get("top-1")
    for figures in variants.values():
        if baseline is not None and "top-1" in figures:
            figures["difference"] = figures["top-1"] - baseline
    runs = [*trials(study, list(study.variants)), *finals(study, list(study.variants))]
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
    for run in trials(study, [name]):
        result = folder.result(run)
        if result:
            figures["rates"][f"{base * run.rate:g}"] = _scored(result)
    if name in rates:
        figures["lr"] = base * rates[name]
    for run in finals(study, [name]):
        result = folder.result(run)
        if result:
            figures["runs"][str(run.seed)] = _final(result)
    scored = [run for run in figures["runs"].values() if "top-1" in run]
    if scored:
        figures.update(_over_seeds(scored))
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
        with open(as_csv, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(_row(name, row) for name, row in results["variants"].items())
    return paths


def _row(name: str, figures: dict) -> Dict[str, object]:
    row: Dict[str, object] = {"variant": name, "flags": figures["flags"]}
    row["seeds"] = sum("top-1" in run for run in figures["runs"].values())
    if "lr" in figures:
        row["lr"] = f"{figures['lr']:g}"
    if row["seeds"]:
        for column in ("top-1", "spread", "difference", "loss"):
            row[column] = _rounded(figures.get(column))
        row["train top-1"] = _rounded(figures["train"]["top-1"])
        row["train loss"] = _rounded(figures["train"]["loss"])
        row["seconds"], row["img/s"] = round(figures["seconds"]), round(figures["img_per_s"])
    return row


def _rounded(value: Optional[float]) -> object:
    return "" if value is None else round(value, 4)


def table(results: dict) -> str:
    """The variants with their accuracies, for a terminal."""
    width = max(map(len, results["variants"]))
    lines = [f"{'variant':{width}}  lr       top-1   spread  difference  seeds"]
    for name, figures in results["variants"].items():
        line = f"{name:{width}}  {figures['lr']:<7.4g}" if "lr" in figures else name
        if "top-1" in figures:
            seeds = sum("top-1" in run for run in figures["runs"].values())
            spread, difference = (
                100 * figures.get(key, math.nan) for key in ("spread", "difference")
            )
            line += f"  {figures['top-1']:.2%}  {spread:6.2f}  {difference:+10.2f}  {seeds:5}"
        lines.append(line)
    return "\n".join(lines)
