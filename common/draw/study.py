"""A study's results, as common/study/report.py writes them, as figures."""

from typing import Any

import numpy as np

from .curves import Curve, Panel, curves


def training_error(results: dict) -> Any:
    """A matplotlib figure: the share of wrong answers in training, a curve for each variant.

    An epoch's figure is the mean over the epoch, so it stands at its middle.

    Args:
        results: each variant has a run of a seed, and all runs have equally many epochs.
    """
    drawn = []
    for name, figures in results["variants"].items():
        ended = [run["epochs"] for run in figures["runs"].values() if "epochs" in run]
        errors = [[1 - epoch["train"]["top-1"] for epoch in epochs] for epochs in ended]
        drawn.append(Curve(name, np.arange(len(errors[0])) + 0.5, np.array(errors)))
    note = f"mean and range of {len(results['seeds'])} seeds"
    return curves([Panel("training error (top-1)", drawn, percent=True)], "epochs", note)
