"""Damage as disks, cables and people do it: one for each seed, to any file's bytes."""

import random
from typing import Sequence

_BLOCKS = (1, 3, 4, 16, 64, 512)  # bytes
_WORDS = (0, 1, 3, 7, 8, 1 << 14, 1 << 28, (1 << 29) - 1, 1 << 29, 2 << 29, 3 << 29, 2**32 - 1)


def mutate(content: bytes, seed: int, places: Sequence[int] = ()) -> bytes:
    """``content`` with one fault, which ``seed`` alone decides; never equal to ``content``.

    Args:
        places: offsets at which a fault tells most; every other one begins there.
    """
    rng = random.Random(seed)
    kinds = BINARY + TEXT if content.isascii() else BINARY
    mutated = content
    while mutated == content:
        at = rng.choice(places) if places and rng.random() < 0.5 else rng.randrange(len(content))
        mutated = rng.choice(kinds)(content, at, rng)
    return mutated


def _flip(content, at, rng):
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def _cut(content, at, rng):
    return content[:at]


def _zero(content, at, rng):
    size = min(rng.choice(_BLOCKS), len(content) - at)
    return content[:at] + bytes(size) + content[at + size :]


def _delete(content, at, rng):
    return content[:at] + content[at + rng.choice(_BLOCKS) :]


def _insert(content, at, rng):
    return content[:at] + _noise(rng) + content[at:]


def _append(content, at, rng):
    return content + _noise(rng)


def _repeat(content, at, rng):
    end = at + rng.choice(_BLOCKS)
    return content[:end] + content[at:]


def _swap(content, at, rng):
    """Exchange two blocks."""
    size, other = rng.choice(_BLOCKS), rng.randrange(len(content))
    low, high = sorted((at, other))
    size = min(size, high - low, len(content) - high)
    blocks = content[high : high + size], content[low : low + size]
    middle = content[low + size : high]
    return content[:low] + blocks[0] + middle + blocks[1] + content[high + size :]


def _word(content, at, rng):
    """Another number in a word of 32 bits: an extreme one, or one close by."""
    at -= at % 4
    word = int.from_bytes(content[at : at + 4], "little")
    near = (word + rng.choice((-8, -4, -1, 1, 4, 8, 400))) % 2**32
    return content[:at] + rng.choice((near, *_WORDS)).to_bytes(4, "little") + content[at + 4 :]


def _noise(rng):
    return bytes(rng.randrange(256) for _ in range(rng.choice(_BLOCKS)))


def _digit(content, at, rng):
    return content[:at] + rng.choice("0123456789-. \t\n").encode() + content[at + 1 :]


def _lines(content, at, rng):
    """A line lost, twice there, or in another place."""
    lines = content.splitlines(keepends=True)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[i:i] = rng.choice(([], [lines[j]], [lines[i]]))
    lines[j], lines[i] = lines[i], lines[j]
    if rng.random() < 0.5:
        del lines[j]
    return b"".join(lines)


BINARY = [_flip, _cut, _zero, _delete, _insert, _append, _repeat, _swap, _word]
TEXT = [_digit, _lines] * 4
