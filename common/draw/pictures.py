"""What a network has learned and what it makes of a picture, as figures."""

from typing import Any, List, NamedTuple, Sequence, Tuple

import numpy as np

from .style import FAINT, fitting, new_figure, show_pixels, styled
from .tiles import heat_over, kernel_tiles, shape_of_sheet, sheet, strip

_WIDTH = 8.0  # inches
_MAPS = 24  # of a layer that are shown
_ACROSS = 6  # labelled pictures in a row


class Answer(NamedTuple):
    """What a layer answers to a picture."""

    layer: str
    maps: np.ndarray  # (N, h, w)


class Neighbours(NamedTuple):
    """A picture and those that lie nearest to it."""

    picture: np.ndarray  # (H, W, 3) uint8
    title: str
    found: List[np.ndarray]  # of the same shape, nearest first
    titles: List[Tuple[str, float]]  # class and distance of each


@styled
def kernels(weights: np.ndarray, title: str, columns: int = 1) -> Any:
    """A matplotlib figure of first-layer kernels, (N, C, h, w), C 1 or 3.

    Each of the network's ``columns`` has N / columns of them: they are set apart.
    """
    count = len(weights) // columns
    rows, wide = shape_of_sheet(count, 16)
    page = sheet(kernel_tiles(weights), wide, least=24, rows_apart=rows if columns > 1 else 0)
    figure = new_figure(_WIDTH, _WIDTH * page.shape[0] / page.shape[1] + 0.4)
    show_pixels(figure.subplots(), page, title)
    return figure


@styled
def maps(picture: np.ndarray, answers: Sequence[Answer], title: str) -> Any:
    """A matplotlib figure: the (H, W, 3) uint8 picture, and below it a strip for each layer."""
    strips = [strip(answer.maps, _MAPS) for answer in answers]
    heights = [1.7, *(_WIDTH * page.shape[0] / page.shape[1] + 0.3 for page in strips)]
    figure = new_figure(_WIDTH, sum(heights) + 0.3)
    first, *others = figure.subplots(len(heights), 1, height_ratios=heights)
    show_pixels(first, picture, title)
    for axes, answer, page in zip(others, answers, strips):
        count, height, width = answer.maps.shape
        most = "" if count <= _MAPS else f", the {_MAPS} strongest"
        show_pixels(axes, page)
        axes.set_title(f"{answer.layer}: {count} maps of {height}x{width}{most}", loc="left")
    return figure


@styled
def occlusion(picture: np.ndarray, heat: np.ndarray, name: str, probability: float) -> Any:
    """A matplotlib figure: a picture, (H, W, 3) uint8, and where hiding a part changes the answer.

    ``heat``, (H, W), is how much less probable the class ``name`` is if what lies there is hidden.
    """
    most = float(np.abs(heat).max()) or 1.0
    figure = new_figure(_WIDTH, 4.0)
    left, right = figure.subplots(1, 2)
    show_pixels(left, picture, f"{name}: {probability:.0%}")
    show_pixels(right, heat_over(picture, heat, most), "with the part at each point hidden")
    scale = np.linspace(most, -most, 200)[:, None]
    grey = np.full((200, 1, 3), 128, np.uint8)
    bar = right.inset_axes((1.04, 0, 0.05, 1))
    bar.imshow(heat_over(grey, scale, most), aspect="auto", extent=(0, 1, -most, most))
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.yaxis.set_major_formatter(lambda value, _: f"{-100 * value:+.3g}" if value else "0")
    bar.set_ylabel("its probability changes by, points", labelpad=8)
    bar.yaxis.set_label_position("right")
    bar.spines[:].set_visible(False)
    return figure


@styled
def nearest(rows: Sequence[Neighbours]) -> Any:
    """A matplotlib figure: a row for each picture, with those nearest to it at its right."""
    across = 1 + max(len(row.found) for row in rows)
    side = _WIDTH / (across + 0.25)
    figure = new_figure(_WIDTH, len(rows) * (side + 0.36) + 0.1)
    ratios = [1, 0.25, *[1] * (across - 1)]
    for cells, row in zip(
        figure.subplots(len(rows), across + 1, squeeze=False, width_ratios=ratios), rows
    ):
        for axes in cells:
            axes.set_axis_off()
        length = int(side * 13)  # characters that fit above a picture
        names = fitting([name for name, _ in row.titles], length)
        titles = [f"{name}\n{far:.3g}" for name, (_, far) in zip(names, row.titles)]
        titles = [*fitting([row.title], length), *titles]
        for axes, pixels, title in zip([cells[0], *cells[2:]], [row.picture, *row.found], titles):
            show_pixels(axes, pixels, title, size=8)
        cells[1].plot([0.5, 0.5], [0, 1], color=FAINT, linewidth=0.8)
        cells[1].set(xlim=(0, 1), ylim=(0, 1))
    return figure


@styled
def labelled(shown: Sequence[np.ndarray], titles: Sequence[Sequence[str]]) -> Any:
    """A matplotlib figure: pictures, (H, W, 3) uint8, with lines of text above each."""
    rows = -(-len(shown) // _ACROSS)
    side = _WIDTH / _ACROSS
    figure = new_figure(_WIDTH, rows * (side + 0.36) + 0.1)
    grid = list(figure.subplots(rows, _ACROSS, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, pixels, lines in zip(grid, shown, titles):
        show_pixels(axes, pixels, "\n".join(fitting(lines, int(side * 13))), size=8)
    return figure
