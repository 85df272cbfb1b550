"""Print how many neurons and parameters each form of AlexNet has: ``python -m symbols.forms``."""

import math
from typing import Tuple

_TWO, _ONE = (96, 256, 384, 384, 256), (64, 192, 384, 256, 256)  # filters of conv1 to conv5
# Where it is from -> filters, groups of conv2, conv4 and conv5.
FORMS = {
    "article": (_TWO, 1),
    "paper": (_TWO, 2),
    "source of 2012": (_TWO, 2),
    "Caffe": (_TWO, 2),
    "cuda-convnet2": (_ONE, 1),
    "torchvision": (_ONE, 1),
}
_SIDES, _KERNELS, _CLASSES = (55, 27, 13, 13, 13), (11, 5, 3, 3, 3), 1000  # maps: of all forms


def counts(form: str) -> Tuple[int, int, int]:
    """The neurons, weights and biases of a form, with 1000 classes."""
    filters, groups = FORMS[form]
    channels = (3, *filters)
    split = (1, groups, 1, groups, groups)
    weights = sum(
        filters[i] * channels[i] // split[i] * _KERNELS[i] ** 2 for i in range(len(filters))
    )
    sizes = (filters[-1] * 6 * 6, 4096, 4096, _CLASSES)
    weights += sum(map(math.prod, zip(sizes, sizes[1:])))
    neurons = sum(f * side**2 for f, side in zip(filters, _SIDES)) + sum(sizes[1:])
    return neurons, weights, sum(filters) + sum(sizes[1:])


def table() -> str:
    """The counts of all forms as a table in Markdown."""
    lines = ["| form | neurons | weights | biases | parameters |", "|---|---|---|---|---|"]
    for form in FORMS:
        neurons, weights, biases = counts(form)
        figures = (neurons, weights, biases, weights + biases)
        lines.append(f"| {form} | " + " | ".join(f"{figure:,}" for figure in figures) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
