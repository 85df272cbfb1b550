"""Print how many neurons and parameters each form of AlexNet has: ``python -m docs.forms``."""

from typing import Tuple

from symbols import IMAGE_SHAPES, get_symbol, summary

# Where it is from -> the network here that has its layers with weights.
FORMS = {
    "article": "alexnet",
    "paper": "alexnet2012",
    "source of 2012": "alexnet145",
    "Caffe": "alexnet2012",
    "CaffeNet": "caffenet",
    "cuda-convnet2": "alexnet_owt",
    "torchvision": "alexnet_owt",
}


def counts(form: str) -> Tuple[int, int, int]:
    """The neurons, weights and biases of a form, with 1000 classes."""
    network = FORMS[form]
    layers = summary.layers(get_symbol(network), IMAGE_SHAPES[network])
    each = [(layer.neurons, layer.weights, layer.biases) for layer in layers]
    neurons, weights, biases = map(sum, zip(*each))
    return neurons, weights, biases


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
