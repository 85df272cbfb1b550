"""A confusion matrix as a figure."""

from typing import Any, Sequence

import numpy as np

from .style import new_figure, shades, styled

_LABELLED = 30  # classes up to which there is room for names and numbers


@styled
def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Any:
    """A matplotlib figure of (classes, classes) counts: row the true class, column the first guess.

    The colour says which share of a row's images the cell has.
    """
    count = len(classes)
    labelled = count <= _LABELLED
    side = max(3, 0.5 * count) if labelled else 10  # inches; what is beside the cells adds to it
    figure = new_figure(side, side)
    figure.set_layout_engine("none")  # a cell of a large matrix keeps its two pixels
    axes = figure.add_axes((0, 0, 1, 1))
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    colours, norm = shades(1 / 3)  # brings out rare confusions, which a large matrix is full of
    shown = axes.imshow(share, colours, norm=norm, interpolation="nearest")
    axes.set(xlabel="first guess", ylabel="true class")
    axes.spines[:].set_visible(True)
    ticks = [0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1]
    beside = axes.inset_axes((1.03, 0, 0.03, 1))
    figure.colorbar(shown, beside, ticks=ticks, format="{x:g}", label="share of the true class")
    if labelled:
        axes.set_xticks(range(count), classes, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), classes)
        for row, column in np.ndindex(count, count):
            colour = "white" if norm(share[row, column]) > 0.5 else "black"
            number = matrix[row, column]
            axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=9)
    return figure
