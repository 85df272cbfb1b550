"""Draw the page's sample pictures, common/page/samples/*.jpg: python -m docs.samples

They are drawn, so nobody else has rights in them.
"""

import os
from typing import Dict

import numpy as np

from common.io.files import atomic
from common.io.opencv import cv2
from docs.scene import scene

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "common/page")
_SIDE = 256  # pixels
_FINER = 4  # it is drawn so many times larger: that makes smooth edges


class _Drawing:
    """Shapes on a background that goes from one colour to another; lengths are shares of a side."""

    def __init__(self, top, bottom):
        down = np.linspace(0, 1, _SIDE * _FINER)[:, None, None]
        colours = np.array(top) * (1 - down) + np.array(bottom) * down
        whole = np.broadcast_to(colours, (_SIDE * _FINER, _SIDE * _FINER, 3))
        self._pixels = whole.round().astype(np.uint8).copy()

    def shape(self, colour, *corners):
        cv2.fillPoly(self._pixels, [self._points(corners)], colour)

    def disc(self, colour, x, y, width, height):
        centre, axes = self._points([(x, y), (width / 2, height / 2)]).tolist()
        cv2.ellipse(self._pixels, centre, axes, 0, 0, 360, colour, -1)

    def line(self, colour, width, *corners):
        thick = int(width * _SIDE * _FINER)
        cv2.polylines(self._pixels, [self._points(corners)], False, colour, thick, cv2.LINE_AA)

    def picture(self):
        return cv2.resize(self._pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)

    def _points(self, corners):
        return (np.array(corners) * _SIDE * _FINER).round().astype(np.int32)


def airplane() -> np.ndarray:
    """An airliner from the side, in the sky."""
    drawing = _Drawing((92, 148, 214), (196, 220, 240))
    white, grey, dark = (238, 240, 244), (176, 184, 196), (70, 84, 104)
    drawing.shape(grey, (0.5, 0.5), (0.62, 0.5), (0.8, 0.3), (0.74, 0.3))
    drawing.shape((40, 80, 150), (0.78, 0.5), (0.92, 0.48), (0.97, 0.28), (0.9, 0.28))
    drawing.disc(white, 0.5, 0.52, 0.86, 0.13)
    drawing.shape(white, (0.6, 0.46), (0.94, 0.48), (0.88, 0.53), (0.6, 0.58))
    drawing.shape(grey, (0.42, 0.56), (0.56, 0.56), (0.74, 0.78), (0.67, 0.78))
    drawing.disc(dark, 0.55, 0.66, 0.1, 0.045)
    for x in np.arange(0.18, 0.78, 0.045):
        drawing.disc(dark, x, 0.5, 0.018, 0.024)
    drawing.shape(dark, (0.09, 0.51), (0.13, 0.485), (0.15, 0.51))
    return drawing.picture()


def car() -> np.ndarray:
    """A red car from the side, on a road."""
    drawing = _Drawing((170, 200, 226), (222, 228, 230))
    red, glass, black = (188, 34, 38), (148, 184, 204), (28, 28, 32)
    drawing.shape(
        (112, 150, 96), (0, 0.45), (0.3, 0.38), (0.7, 0.42), (1, 0.36), (1, 0.7), (0, 0.7)
    )
    drawing.shape((104, 106, 112), (0, 0.66), (1, 0.66), (1, 1), (0, 1))
    drawing.shape(red, (0.22, 0.5), (0.34, 0.32), (0.66, 0.32), (0.8, 0.5))
    drawing.shape(glass, (0.29, 0.49), (0.36, 0.36), (0.5, 0.36), (0.5, 0.49))
    drawing.shape(glass, (0.53, 0.49), (0.53, 0.36), (0.64, 0.36), (0.73, 0.49))
    drawing.shape(
        red, (0.06, 0.56), (0.12, 0.49), (0.88, 0.49), (0.95, 0.56), (0.95, 0.72), (0.06, 0.72)
    )
    drawing.shape((246, 222, 130), (0.06, 0.56), (0.1, 0.54), (0.1, 0.6), (0.06, 0.6))
    for x in (0.26, 0.76):
        drawing.disc(black, x, 0.72, 0.19, 0.19)
        drawing.disc((186, 188, 194), x, 0.72, 0.09, 0.09)
    return drawing.picture()


def seven() -> np.ndarray:
    """A 7 as MNIST has them: white on black, 20 of 28 pixels high."""
    drawing = _Drawing((0, 0, 0), (0, 0, 0))
    drawing.line((255, 255, 255), 0.09, (0.32, 0.24), (0.68, 0.24), (0.44, 0.8))
    return drawing.picture()


def drawings() -> Dict[str, np.ndarray]:
    """Name -> (256, 256, 3) uint8, R, G, B."""
    return {"airplane": airplane(), "car": car(), "seven": seven(), "ship": scene(_SIDE)}


def main() -> None:
    """Draw all of them."""
    for name, picture in drawings().items():
        path = os.path.join(FOLDER, "samples", f"{name}.jpg")
        options = [cv2.IMWRITE_JPEG_QUALITY, 88]
        content = cv2.imencode(".jpg", picture[..., ::-1], options)[1].tobytes()
        with atomic(path) as temporary, open(temporary, "wb") as file:
            file.write(content)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
