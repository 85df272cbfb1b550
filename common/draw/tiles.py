"""Kernels, maps and heat as pixels: numpy arrays, for figures, the page and TensorBoard alike."""

from typing import Sequence, Tuple

import numpy as np

from common.io.opencv import cv2

from .style import COLOURS, INK, SHADES, fitting, rgb

_TILE = 100  # pixels that a map in a strip is wide, at least
_CAPTIONED, _LINE, _LETTER = 128, 16, 7.5  # pixels: a captioned picture's, a line's, a letter's
_STRONG, _WEAK = (np.array(rgb(COLOURS[i]), np.float32) for i in (1, 0))  # of heat


def kernel_tiles(weights: np.ndarray) -> np.ndarray:
    """Kernels (N, C, h, w), C 1 or 3 (R, G, B), as small pictures: (N, h, w, 3) uint8.

    Middle grey is 0; each kernel's weight of the largest size is 0 or 255.
    """
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    level = 127.5 + 127.5 * weights / np.maximum(largest, np.finfo(np.float32).tiny)
    tiles = level.round().astype(np.uint8).transpose(0, 2, 3, 1)
    return np.broadcast_to(tiles, (*tiles.shape[:3], 3))


def strongest(maps: np.ndarray, count: int) -> np.ndarray:
    """The numbers of up to ``count`` of the (N, h, w) maps: those of the largest means, in order.

    Negative values count as zero, as the ReLU behind a layer makes them.
    """
    means = np.maximum(maps, 0).mean(axis=(1, 2))
    return np.sort(np.argsort(-means, kind="stable")[:count])


def map_tiles(maps: np.ndarray) -> np.ndarray:
    """Maps (N, h, w) as small pictures in SHADES, all on one scale: (N, h, w, 3) uint8.

    White is 0 or less, the darkest the largest 0.2% of all.
    """
    most = np.quantile(maps, 0.998)
    level = np.clip(maps / most, 0, 1) if most > 0 else np.zeros_like(maps)
    return _shaded(level)


def _shaded(level):
    """Values of 0 to 1 as colours between SHADES: (..., 3) uint8."""
    anchors = np.array([rgb(shade) for shade in SHADES], np.float32)
    at = np.linspace(0, 1, len(anchors))
    channels = [np.interp(level, at, anchors[:, i]) for i in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def heat_over(picture: np.ndarray, heat: np.ndarray, most: float = 0) -> np.ndarray:
    """A picture, (H, W, 3) uint8, in grey, coloured where ``heat``, (H, W), is not 0.

    Orange is positive, blue negative; colours are full from ``most`` on, or the largest if it is 0.
    """
    grey = 96 + 0.6 * picture.astype(np.float32).mean(axis=2, keepdims=True)  # paler: colours count
    most = most or float(np.abs(heat).max()) or 1.0
    share = np.clip(heat / most, -1, 1)[..., None]
    colour = np.where(share > 0, _STRONG, _WEAK)
    weight = 0.85 * np.abs(share)
    return (grey * (1 - weight) + colour * weight).clip(0, 255).round().astype(np.uint8)


def _enlarged(tiles, least):
    """Pictures (..., h, w, 3) at least so many pixels wide, by a whole factor, pixel by pixel."""
    factor = -(-least // tiles.shape[-2])
    return tiles.repeat(factor, axis=-3).repeat(factor, axis=-2)


def sheet(tiles: np.ndarray, columns: int, least: int = 1, rows_apart: int = 0) -> np.ndarray:
    """Pictures (N, h, w, 3) uint8 in rows on white, with a gap between them: (H, W, 3) uint8.

    Those narrower than ``least`` pixels are enlarged. After ``rows_apart`` rows, if it is not 0,
    the gap is wide.
    """
    tiles = _enlarged(tiles, least)
    count, height, width = tiles.shape[:3]
    gap = max(1, width // 12)
    rows = -(-count // columns)
    tops = [
        r * (height + gap) + (r // rows_apart * height // 2 if rows_apart else 0)
        for r in range(rows)
    ]
    side = columns * (width + gap) - gap
    page = np.full((tops[-1] + height, side, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = tops[i // columns], i % columns * (width + gap)
        page[top : top + height, left : left + width] = tile
    return page


def strip(maps: np.ndarray, most: int, columns: int = 12) -> np.ndarray:
    """The strongest ``most`` of a layer's (N, h, w) maps, side by side: (H, W, 3) uint8."""
    return framed(map_tiles(maps)[strongest(maps, most)], columns)


def framed(tiles: np.ndarray, columns: int = 12) -> np.ndarray:
    """Maps as (N, h, w, 3) uint8 tiles, enlarged and framed: (H, W, 3) uint8."""
    tiles = np.pad(_enlarged(tiles, _TILE), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=160)
    return sheet(tiles, columns)


def captioned(tile: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """A (h, w, 3) uint8 picture, enlarged if it is small, with lines of text below it."""
    tile = _enlarged(tile, _CAPTIONED)
    foot = np.full((_LINE * len(lines) + 4, tile.shape[1], 3), 255, np.uint8)
    for i, text in enumerate(fitting(lines, int(tile.shape[1] / _LETTER))):
        plain = text.replace("…", "~").encode("ascii", "replace").decode()  # all that OpenCV has
        at = 2, _LINE * i + 13
        cv2.putText(foot, plain, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, rgb(INK), 1, cv2.LINE_AA)
    return np.concatenate([tile, foot])


def shape_of_sheet(count: int, widest: int) -> Tuple[int, int]:
    """(rows, columns) for ``count`` tiles, at most ``widest`` in a row, rows as full as can be."""
    rows = -(-count // widest)
    return rows, -(-count // rows)
