"""A drawn scene, for pictures of what training makes of an image: a sailing boat at sea."""

import numpy as np

from common.io.opencv import cv2

_FINER = 4  # it is drawn so many times larger: that makes smooth edges


def scene(side: int) -> np.ndarray:
    """The scene as a square of ``side`` pixels, (side, side, 3) uint8, R, G, B.

    Left and right, above and below differ, so that a crop and a mirror can be seen.
    """
    large = side * _FINER
    picture = _sky_and_sea(large)

    def points(*shares):
        return (np.array(shares) * large).round().astype(np.int32)

    def shape(colour, *shares):
        cv2.fillPoly(picture, [points(*shares)], colour)

    def disc(colour, x, y, radius):
        centre = tuple(int(value) for value in points(x, y))
        cv2.circle(picture, centre, int(radius * large), colour, -1)

    disc((255, 226, 120), 0.82, 0.16, 0.075)
    for x, y, radius in ((0.14, 0.17, 0.05), (0.2, 0.145, 0.06), (0.27, 0.17, 0.05)):
        disc((250, 250, 252), x, y, radius)
    shape((86, 128, 84), (0, 0.6), (0, 0.5), (0.1, 0.44), (0.22, 0.52), (0.34, 0.6))
    shape((214, 60, 48), (0.5, 0.18), (0.5, 0.66), (0.78, 0.66))
    shape((246, 240, 226), (0.47, 0.26), (0.47, 0.66), (0.29, 0.66))
    shape((92, 60, 40), (0.48, 0.14), (0.492, 0.14), (0.492, 0.72), (0.48, 0.72))
    shape((38, 52, 86), (0.24, 0.7), (0.82, 0.7), (0.72, 0.8), (0.32, 0.8))
    shape((240, 176, 64), (0.24, 0.7), (0.82, 0.7), (0.806, 0.715), (0.255, 0.715))
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)


def _sky_and_sea(side):
    down = np.linspace(0, 1, side)[:, None, None]
    horizon = 0.6
    sky = np.array([96, 160, 222]) + down / horizon * np.array([110, 66, 22])
    wave = np.sin(down**2 * 130) * 10
    sea = np.array([34, 112, 150]) + (down - horizon) * np.array([-40, -90, -60]) + wave
    picture = np.where(down < horizon, sky, sea).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(picture, (side, side, 3)))
