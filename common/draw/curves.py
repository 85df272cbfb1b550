"""Curves of training runs, several of one kind as their mean and range."""

import itertools
from typing import Any, List, NamedTuple, Sequence

import numpy as np

from .style import COLOURS, new_figure, styled

_NAMES = 40  # characters of a legend's row


class Curve(NamedTuple):
    """One line, and the band between the lowest and the highest run where there are several.

    Curves of one label have one colour, and one row in the legend.
    """

    label: str
    x: Sequence[float]
    runs: np.ndarray  # (R, len(x)): a row a run, nan where it has no value
    dashed: bool = False


class Panel(NamedTuple):
    """Curves that share a pair of axes."""

    title: str
    curves: List[Curve]
    percent: bool = False  # shares are shown as percent


@styled
def curves(panels: Sequence[Panel], xlabel: str, note: str = "") -> Any:
    """A matplotlib figure: the panels side by side, one legend above, ``note`` below."""
    figure = new_figure(4.6 * max(len(panels), 1.2), 3.8)
    labels = list(dict.fromkeys(curve.label for panel in panels for curve in panel.curves))
    colours = dict(zip(labels, itertools.cycle(COLOURS)))
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0]):
        for curve in panel.curves:
            _draw(axes, curve, colours[curve.label])
        _finish(axes, panel, xlabel)
    empty = figure.axes[0].plot  # short lines for the legend, drawn nowhere else
    handles = [empty([], [], color=colour, linewidth=3)[0] for colour in colours.values()]
    columns = max(1, min(4, int(_NAMES * len(panels) / (5 + max(map(len, labels))))))
    blank = [" "] * len(labels)  # matplotlib before 3.10 leaves out a label that begins with _
    legend = figure.legend(handles, blank, loc="outside upper left", ncols=columns, frameon=False)
    for text, label in zip(legend.get_texts(), labels):
        text.set_text(label)
    if note:
        figure.supxlabel(note, fontsize=8, x=0.01, ha="left")
    return figure


def _draw(axes, curve, colour):
    runs = np.asarray(curve.runs, float)
    runs = np.where(np.isfinite(runs), runs, np.nan)
    known = ~np.isnan(runs).all(axis=0)
    x, runs = np.asarray(curve.x, float)[known], runs[:, known]
    style = {"linestyle": (0, (4, 2)), "linewidth": 1.2} if curve.dashed else {"linewidth": 1.8}
    few = len(x) <= 30
    marked = {"marker": "o", "markersize": 3 if curve.dashed else 4} if few else {}
    axes.plot(x, np.nanmean(runs, axis=0), color=colour, **style, **marked)
    if len(runs) > 1:
        low, high = np.nanmin(runs, axis=0), np.nanmax(runs, axis=0)
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def _finish(axes, panel, xlabel):
    axes.set_title(panel.title, loc="left")
    axes.set_xlabel(xlabel)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if panel.percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
