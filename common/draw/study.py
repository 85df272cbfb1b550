"""A study's results, as common/study/report.py writes them, as figures."""

from typing import Any

from .style import COLOURS, new_figure, styled


@styled
def study_chart(results: dict) -> Any:
    """A matplotlib figure: each variant's top-1, the best one above, the baseline in its colour.

    A bar is the mean of the seeds, a point each of them. The line goes from the lowest to the
    highest end of their 95% intervals, which say how far the number of test images leaves top-1
    open. A note names the variants without a result; one at least has a "top-1".
    """
    variants = results["variants"]
    known = [name for name in variants if "top-1" in variants[name]]
    names = sorted(known, key=lambda name: variants[name]["top-1"])
    baseline = next(iter(variants))
    figure = new_figure(6.4, 1.0 + 0.3 * len(names))
    axes = figure.subplots()
    for y, name in enumerate(names):
        colour = COLOURS[1] if name == baseline else COLOURS[0]
        _draw_variant(axes, y, variants[name], colour)
    if baseline in known:
        axes.axvline(variants[baseline]["top-1"], color=COLOURS[1], linewidth=0.8, zorder=0)
    axes.set_title("test accuracy (top-1)", loc="left")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    missing = ", ".join(name for name in variants if name not in known)
    notes = [
        "bar: mean of the seeds, points: seeds, line: their 95% intervals",
        f"orange: {baseline}",
    ]
    notes += [f"no result: {missing}"] if missing else []
    figure.supxlabel("\n".join(notes), fontsize=8, x=0.01, ha="left")
    return figure


def _draw_variant(axes, y, figures, colour):
    runs = [run for run in figures["runs"].values() if "top-1" in run]
    low = min(run["interval95"][0] for run in runs)
    high = max(run["interval95"][1] for run in runs)
    axes.plot([low, high], [y, y], color=colour, linewidth=1.2)
    axes.plot([figures["top-1"]] * 2, [y - 0.25, y + 0.25], color=colour, linewidth=2.5)
    points = [run["top-1"] for run in runs]
    axes.plot(points, [y] * len(points), "o", color=colour, markersize=4)
    at_the_right = axes.get_yaxis_transform()
    text = f"{figures['top-1']:.2%}"
    axes.text(1.02, y, text, transform=at_the_right, va="center_baseline")
