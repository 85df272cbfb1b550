"""Which class a network takes for which, counted: as a table, a CSV file or a picture."""

import csv
from typing import Iterator, List, NamedTuple, Optional

import numpy as np

from common.draw import style
from common.draw.confusion import confusion as draw
from common.io.files import atomic

from .scores import Scores


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
    """Write the matrix to ``path``: a table if it ends in .csv, else a picture, PNG or SVG."""
    if not path.lower().endswith(".csv"):
        style.write(draw(confusion.matrix, confusion.classes), path)
        return
    # With a byte order mark, or spreadsheets on Windows take UTF-8 for the system's own encoding.
    form = {"newline": "", "encoding": "utf-8-sig"}
    with atomic(path) as temporary, open(temporary, "w", **form) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["true class / first guess", *confusion.classes])
        for name, counts in zip(confusion.classes, confusion.matrix.tolist()):
            writer.writerow([name, *counts])
