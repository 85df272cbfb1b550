"""What a matplotlib figure shows, for the tests of what draws."""

import itertools

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

LARGEST = 200_000  # bytes of a picture


def rendered(figure):
    """The figure's renderer, after everything has found its place."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def texts(figure):
    """All that is written in it, with the box of pixels that each text fills; slanted text not."""
    renderer = rendered(figure)
    found = [t for legend in figure.legends for t in legend.get_texts()]
    found += [figure._supxlabel] if figure._supxlabel else []
    for axes in figure.findobj(Axes):
        found += [axes.title, axes._left_title, *axes.texts]
        if axes.axison:
            found += [axes.xaxis.label, axes.yaxis.label]
            found += _within(axes.get_xticklabels(), 0, axes.get_xlim())
            found += _within(axes.get_yticklabels(), 1, axes.get_ylim())
    shown = [t for t in found if t.get_visible() and t.get_text().strip()]
    return [
        (t.get_text(), t.get_window_extent(renderer)) for t in shown if t.get_rotation() in (0, 90)
    ]


def _within(labels, dimension, limits):
    """The labels of ticks that lie in the view; matplotlib makes some beyond it, and hides them."""
    return [one for one in labels if min(limits) <= one.get_position()[dimension] <= max(limits)]


def overlapping(figure):
    """Pairs of texts that lie on each other."""
    shrunk = [(text, box.padded(-1)) for text, box in texts(figure)]
    pairs = itertools.combinations(shrunk, 2)
    return [(a, b) for (a, one), (b, other) in pairs if one.overlaps(other)]
