"""Which class a network takes for which, counted: as a table, a CSV file or a picture."""

import csv
from typing import Iterator, List, NamedTuple, Optional

import numpy as np

from common.cli import UserError
from common.io.files import atomic

from .scores import Scores

_LABELLED = 30  # classes up to which the picture has room for names and numbers


class Confusion(Scores):
    """Scores that also count, for each class, what it was taken for.

    ``matrix`` (classes, classes) int64: row the true class, column the first guess. As in top-1, a
    wrong class that is as likely as the true one comes before it.
    """

    def __init__(self, top_k: int, classes: List[str]):
        super().__init__(top_k)
        self.classes = classes
        self.matrix = np.zeros((len(classes), len(classes)), np.int64)

    def update(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Add n images: ``probabilities`` (n, classes), ``labels`` (n,) class numbers."""
        super().update(probabilities, labels)
        rows, labels = np.arange(len(labels)), labels.astype(int)
        others = np.where(np.isfinite(probabilities), probabilities, 0)
        true = others[rows, labels]
        others[rows, labels] = -1
        wrong = others.argmax(axis=1)
        right = true > others[rows, wrong]
        np.add.at(self.matrix, (labels, np.where(right, labels, wrong)), 1)


class Row(NamedTuple):
    """The result for one class."""

    name: str
    images: int
    right: int  # of them, the first guess
    taken_for: Optional[str]  # the most frequent wrong guess; None: all are right
    times: int  # how many of them were

    @property
    def top1(self) -> Optional[float]:
        """Share of the images whose first guess is right; None without images."""
        return self.right / self.images if self.images else None


def per_class(confusion: Confusion) -> Iterator[Row]:
    """A row for each class, in the order of the class numbers."""
    names = confusion.classes
    for i, counts in enumerate(confusion.matrix):
        wrong = counts.copy()
        wrong[i] = 0
        worst = int(wrong.argmax())
        taken_for = names[worst] if wrong[worst] else None
        yield Row(names[i], int(counts.sum()), int(counts[i]), taken_for, int(wrong[worst]))


def mean_recall(confusion: Confusion) -> float:
    """The mean of the top-1 of all classes that have images: classes count alike."""
    return float(np.mean([row.top1 for row in per_class(confusion) if row.images]))


def table(confusion: Confusion) -> str:
    """What :func:`per_class` says, for people."""
    rows = list(per_class(confusion))
    width = max(len("class"), *(len(row.name) for row in rows))
    lines = [f"{'class':{width}}  images    top-1  most frequent wrong guess"]
    for row in rows:
        top1 = "-" if row.top1 is None else f"{row.top1:.2%}"
        wrong = f"{row.taken_for} ({row.times})" if row.taken_for is not None else "-"
        lines.append(f"{row.name:{width}}  {row.images:6}  {top1:>7}  {wrong}")
    return "\n".join(lines)


def write(confusion: Confusion, path: str) -> None:
    """Write the matrix to ``path``: a table if it ends in .csv, else a picture (PNG)."""
    with atomic(path) as temporary:
        if path.lower().endswith(".csv"):
            _write_csv(confusion, temporary)
        else:
            _picture(confusion).savefig(temporary, format="png", dpi=200, bbox_inches="tight")


def _write_csv(confusion, path):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["true class / first guess", *confusion.classes])
        for name, counts in zip(confusion.classes, confusion.matrix.tolist()):
            writer.writerow([name, *counts])


def check_plots() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError("--confusion: a picture needs matplotlib; pip install '.[plots]'")


def _picture(confusion):
    """A matplotlib figure: the colour says which share of a row's images the cell has."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    count = len(confusion.classes)
    labelled = count <= _LABELLED
    side = max(3, 0.5 * count) if labelled else 10  # inches; what is beside the cells adds to it
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))
    share = confusion.matrix / np.maximum(confusion.matrix.sum(axis=1, keepdims=True), 1)
    norm = PowerNorm(1 / 3, 0, 1)  # brings out rare confusions, which a large matrix is full of
    shown = axes.imshow(share, "Blues", norm=norm, interpolation="nearest")
    axes.set(xlabel="first guess", ylabel="true class")
    ticks = [0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 1]
    beside = axes.inset_axes((1.03, 0, 0.03, 1))
    figure.colorbar(shown, beside, ticks=ticks, format="{x:g}", label="share of the true class")
    if labelled:
        axes.set_xticks(
            range(count), confusion.classes, rotation=45, ha="right", rotation_mode="anchor"
        )
        axes.set_yticks(range(count), confusion.classes)
        for row, column in np.ndindex(count, count):
            colour = "white" if norm(share[row, column]) > 0.6 else "black"
            number = confusion.matrix[row, column]
            axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=9)
    return figure
