"""The networks that the page shows, and what they make of a picture; one thread runs them all."""

import base64
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import numpy as np

from common.checkpoint import store
from common.draw import tiles
from common.evaluate import network, occlusion
from common.evaluate.classifier import Classifier
from common.io.opencv import cv2

from .card import card

MAX_PIXELS = 50_000_000  # of a picture: 150 MB once decoded
_TOP = 5  # classes that are named
_MAPS, _COLUMNS = 24, 8  # of the first layer that are shown; a row must fit a telephone
_BATCH = 16  # pictures with a hidden part that run together


class Models:
    """One or two prefixes side by side, each with its checkpoints.

    MXNet is used by one thread alone, which :meth:`submit` gives work to. A network is loaded when
    it is asked for; no more are kept than there are prefixes, so that memory stays level.
    """

    def __init__(self, prefixes: Sequence[str], epochs: Sequence[int]):
        """``epochs``: the checkpoint of each prefix that is shown first.

        UserError if one is missing, damaged or diverged.
        """
        self.prefixes = prefixes
        self._first = list(epochs)
        self._loaded: Dict[tuple, Tuple[Classifier, list]] = {}
        self._worker = ThreadPoolExecutor(1, "MXNet")
        for side, epoch in enumerate(epochs):
            self.submit(self._classifier, side, epoch).result()

    def submit(self, work: Callable, *args: Any) -> Any:
        """The future of ``work(*args)`` in MXNet's thread."""
        return self._worker.submit(work, *args)

    def describe(self) -> List[dict]:
        """For each prefix its name, its checkpoints with their cards, and which is shown first."""
        return [
            {
                "name": os.path.basename(prefix),
                "first": first,
                "checkpoints": [
                    {"epoch": epoch, "card": card(prefix, epoch)} for epoch in store.numbers(prefix)
                ],
            }
            for prefix, first in zip(self.prefixes, self._first)
        ]

    def has(self, side: int, epoch: int) -> bool:
        """Whether ``prefixes[side]`` has a checkpoint of this epoch."""
        return side in range(len(self.prefixes)) and epoch in store.numbers(self.prefixes[side])

    def _classifier(self, side: int, epoch: int) -> Tuple[Classifier, list]:
        """A checkpoint of ``prefixes[side]``, loaded now or before, and its first layer's names.

        The names are kept because MXNet's tojson(), which finds them, leaks at each call.
        """
        key = self.prefixes[side], epoch
        if key not in self._loaded:
            for _ in range(len(self._loaded) - len(self.prefixes) + 1):
                self._loaded.pop(next(iter(self._loaded)))
            loaded = Classifier(*key, batch_size=_BATCH, max_pixels=MAX_PIXELS)
            network.check_finite(loaded.network, store.params_path(*key))
            self._loaded[key] = loaded, list(network.activations(loaded.network).items())[:1]
        self._loaded[key] = self._loaded.pop(key)  # the one that was used last is dropped last
        return self._loaded[key]

    def classify(self, side: int, epoch: int, picture: bytes) -> dict:
        """The likeliest classes, the crop that the network saw, and its first layer's maps.

        UserError if it is no picture, or there is no such checkpoint.
        """
        classifier, first = self._classifier(side, epoch)
        image = classifier.prepare(picture)
        answer: Dict[str, Any] = {
            "guesses": classifier.guesses(next(classifier.outputs([image])), _TOP),
            "crop": _png(classifier.preparation.shown(image)),
            "maps": None,
        }
        for layer, name in first:
            maps = next(classifier.outputs([image], layer))
            count, height, width = maps.shape
            answer["maps"] = _png(tiles.strip(maps, _MAPS, _COLUMNS))
            answer["layer"] = f"{name}: {min(count, _MAPS)} of {count} maps of {height}×{width}"
        return answer

    def where(self, side: int, epoch: int, picture: bytes) -> Iterator[dict]:
        """Which region of the picture decides; each ``next`` belongs into MXNet's thread.

        It gives how many images are done, before each batch and at the end; then the map as a
        picture, the class that it is of, and the largest change, 0 to 1. UserError as of
        :meth:`classify`, at the first.
        """
        classifier, _ = self._classifier(side, epoch)
        plan = occlusion.plan(classifier.prepare(picture))
        answers, said = classifier.outputs(plan.hidden()), []
        images = len(plan.corners) + 1  # that the network is asked for
        yield {"done": 0, "images": images}
        while len(said) < images:
            said += itertools.islice(answers, _BATCH)
            yield {"done": len(said), "images": images}
        whole, *hidden = said
        best = int(whole.argmax())
        heat = plan.heat(whole[best] - np.array(hidden)[:, best])
        yield {
            "map": _png(tiles.heat_over(classifier.preparation.shown(plan.image), heat)),
            "name": classifier.classes[best],
            "most": float(np.abs(heat).max()),
        }


def _png(pixels):
    """(H, W, 3) uint8, R, G, B, as a PNG's data URL."""
    encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1]
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()
