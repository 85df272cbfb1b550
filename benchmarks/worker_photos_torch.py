"""torchvision's AlexNet from scratch on photographs, for bench_photos.py: prints a JSON line.

    python benchmarks/worker_photos_torch.py FOLDER SIDE default|kaiming RATE MINUTES

FOLDER holds train/, val/ and test/, each with a folder for each class. It trains for MINUTES as
torchvision's references do: SGD, momentum .9, resized crops and mirror images; batches of 32. The
rate rises for a tenth of the time and then falls linearly to 0 at its end. The network is written
out, so that PyTorch, PIL and numpy are all that is needed.
"""

import glob
import json
import os
import sys
import time

import numpy as np
import torch
from PIL import Image
from torch import nn

BATCH, WARMUP = 32, 0.1
MEAN, STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])


def network(classes, start):
    """torchvision.models.alexnet, with PyTorch's default initial weights, or He's."""
    layers = [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2)]
    for channels, out in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(True)]
    layers += [nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d(6), nn.Flatten()]
    for features in (9216, 4096):
        layers += [nn.Dropout(), nn.Linear(features, 4096), nn.ReLU(True)]
    model = nn.Sequential(*layers, nn.Linear(4096, classes))
    if start == "kaiming":
        for layer in model:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
    return model


class Photos(torch.utils.data.Dataset):
    """The pictures below ``folder``: ((3, side, side) float32, class number)."""

    def __init__(self, folder, side, augmented):
        self.classes = sorted(os.listdir(folder))
        self.paths = sorted(glob.glob(os.path.join(folder, "*", "*.jpg")))
        self.side, self.augmented = side, augmented

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        path = self.paths[index]
        with Image.open(path) as image:
            box = (self.random_box if self.augmented else self.centre)(*image.size)
            size = (self.side, self.side)
            pixels = np.asarray(image.convert("RGB").resize(size, Image.BILINEAR, box))
        if self.augmented and torch.rand(1) < 0.5:
            pixels = pixels[:, ::-1]
        planes = np.ascontiguousarray(((pixels - MEAN) / STD).transpose(2, 0, 1))
        return torch.from_numpy(planes), self.classes.index(os.path.basename(os.path.dirname(path)))

    def random_box(self, width, height):
        """35 to 100% of the area, 3:4 to 4:3, as RandomResizedCrop draws it."""
        draws = torch.rand(4).tolist()
        area, aspect = width * height * (0.35 + 0.65 * draws[0]), 0.75 ** (2 * draws[1] - 1)
        wide, high = min(width, (area * aspect) ** 0.5), min(height, (area / aspect) ** 0.5)
        left, top = draws[2] * (width - wide), draws[3] * (height - high)
        return left, top, left + wide, top + high

    def centre(self, width, height):
        """113 of 128 parts of the short side, from the middle."""
        half = min(width, height) * 113 / 128 / 2
        return width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half


def endless(loader):
    """Batches, epoch after epoch."""
    while True:
        yield from loader


def train(model, loader, rate, seconds):
    """Train for so many seconds; return the images seen."""
    # Fused: the fastest form in float32, 1.47 times as fast as eager at 67 px, 1.27 at 131.
    settings = {"lr": rate, "momentum": 0.9, "weight_decay": 5e-4, "fused": True}
    optimizer = torch.optim.SGD(model.parameters(), **settings)
    criterion, seen, started = nn.CrossEntropyLoss(), 0, time.monotonic()
    model.train()
    for images, labels in endless(loader):
        share = (time.monotonic() - started) / seconds
        if share >= 1:
            break
        optimizer.param_groups[0]["lr"] = rate * min(share / WARMUP, (1 - share) / (1 - WARMUP))
        optimizer.zero_grad(set_to_none=True)
        criterion(model(images), labels).backward()
        optimizer.step()
        seen += len(labels)
    return seen


def right(model, held):
    """How many pictures are named right."""
    model.eval()
    with torch.no_grad():
        batches = torch.utils.data.DataLoader(held, BATCH)
        return sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)


def main():
    """Train, then score."""
    folder, side, start, rate, minutes = sys.argv[1:]
    torch.manual_seed(0)
    training = Photos(os.path.join(folder, "train"), int(side), augmented=True)
    model = network(len(training.classes), start)
    loader = torch.utils.data.DataLoader(
        training, BATCH, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True
    )
    seen = train(model, loader, float(rate), 60 * float(minutes))
    figures = {"epochs": seen / len(training)}
    for part in ("val", "test"):
        held = Photos(os.path.join(folder, part), int(side), augmented=False)
        figures[part] = {"right": right(model, held), "images": len(held)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
