"""The same AlexNet in PyTorch: the other side of tests/graph/test_against_pytorch.py.

    python tests/pytorch_reference.py gradients|train alexnet|alexnet2012 DTYPE IN.npz OUT.npz

It runs in the peers' environment, without MXNet. Both sides exchange arrays by MXNet's names; the
network is the one that the benchmarks time. Dropout is chance, so none is dropped.

IN.npz: ``data``, ``softmax_label`` and every parameter; to train, data and labels have one more
axis in front, the steps, and ``lr``, ``mom`` and ``wd`` are there, too. OUT.npz:

gradients: ``output`` (probabilities), and the gradient of ``data`` and of each parameter for the
cross-entropy summed over the batch.
train: ``loss`` of each step (mean over the batch, before its update) and the final parameters.
both: ``margin``, the narrowest by which a relu was on or off or a value won its max pooling window,
over the largest value that came into that layer.
"""

import os
import sys

import numpy as np
import torch
from torch import nn

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "benchmarks"))

from worker_peers import network

LAYERS = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc1", "fc2", "fc3"]
NAMES = [f"{layer}_{kind}" for layer in LAYERS for kind in ("weight", "bias")]


def build(name: str, arrays: dict, dtype: torch.dtype) -> nn.Sequential:
    """The network with the parameters of ``arrays``, whose shapes also say the classes."""
    model = network(name)
    layers = [module for module in model if isinstance(module, (nn.Conv2d, nn.Linear))]
    for layer, module in zip(LAYERS, layers):
        module.weight = nn.Parameter(torch.tensor(arrays[f"{layer}_weight"], dtype=dtype))
        module.bias = nn.Parameter(torch.tensor(arrays[f"{layer}_bias"], dtype=dtype))
    for module in model:
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def gradients(model: nn.Sequential, data: torch.Tensor, label: torch.Tensor) -> dict:
    """Output and gradients of one pass, as the module says."""
    data.requires_grad_()
    scores = model(data)
    nn.functional.cross_entropy(scores, label, reduction="sum").backward()
    found = {name: p.grad for name, p in zip(NAMES, model.parameters())}
    return {"output": scores.softmax(1).detach(), "data": data.grad, **found}


def watch_decisions(model: nn.Sequential) -> list:
    """A list to which each forward pass appends the margin of each relu and max pooling."""
    margins = []

    def note(module, inputs):
        x = inputs[0].detach()
        gaps = abs(x) if isinstance(module, nn.ReLU) else winners_leads(x, module)
        margins.append(gaps.min() / abs(x).max())

    for module in model:
        if isinstance(module, (nn.ReLU, nn.MaxPool2d)):
            module.register_forward_pre_hook(note)
    return margins


def winners_leads(x: torch.Tensor, pool: nn.MaxPool2d) -> torch.Tensor:
    """By how much the largest of each window leads; windows of zeros pass no gradient on."""
    windows = x.unfold(2, pool.kernel_size, pool.stride).unfold(3, pool.kernel_size, pool.stride)
    first, second = windows.flatten(4).topk(2)[0].unbind(-1)
    return (first - second)[first > 0]


def train(model: nn.Sequential, data: torch.Tensor, label: torch.Tensor, settings: dict) -> dict:
    """Losses and final parameters of a step of momentum SGD for each batch."""
    weights = [p for name, p in zip(NAMES, model.parameters()) if name.endswith("_weight")]
    biases = [p for name, p in zip(NAMES, model.parameters()) if name.endswith("_bias")]
    groups = [{"params": weights, "weight_decay": settings["wd"]}, {"params": biases}]
    optimizer = torch.optim.SGD(groups, lr=settings["lr"], momentum=settings["mom"])
    losses = []
    for images, labels in zip(data, label):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    final = {name: p.detach() for name, p in zip(NAMES, model.parameters())}
    return {"loss": torch.stack(losses), **final}


def main() -> None:
    """Read, compute, write."""
    mode, name, dtype, source, target = sys.argv[1:]
    with np.load(source) as file:
        arrays = dict(file)
    dtype = getattr(torch, dtype)
    model = build(name, arrays, dtype)
    margins = watch_decisions(model)
    data = torch.tensor(arrays["data"], dtype=dtype)
    label = torch.tensor(arrays["softmax_label"], dtype=torch.long)
    if mode == "train":
        settings = {key: float(arrays[key]) for key in ("lr", "mom", "wd")}
        found = train(model, data, label, settings)
    else:
        found = gradients(model, data, label)
    found["margin"] = min(margins)
    np.savez(target, **{key: value.numpy() for key, value in found.items()})


if __name__ == "__main__":
    main()
