"""The forms of a picture that :class:`Classifier` takes, each checked and made independent."""

import os
from typing import Any, BinaryIO, Union

import numpy as np

from common.cli import UserError
from common.io.opencv import cv2
from common.records.picture import on_white

Picture = Union[str, os.PathLike, bytes, BinaryIO, np.ndarray, Any]  # Any: a PIL image
_FORMS = (
    "give a path, a file's content as bytes, a binary file object, a PIL image or a uint8 array"
)
_SHAPES = "give uint8, 0 to 255, (height, width) or (height, width, 1, 3 or 4 channels)"


def check_listed(pictures: Any) -> None:
    """Raise UserError if ``pictures`` is one: a path, a file's content, a file object, an array."""
    is_array = isinstance(pictures, np.ndarray) and pictures.ndim != 4
    if (
        is_array
        or isinstance(pictures, (str, bytes, bytearray, memoryview))
        or not hasattr(pictures, "__iter__")
        or hasattr(pictures, "read")
    ):
        raise UserError(f"pictures: is one {_type(pictures)}; give a list of pictures")


def take(picture: Picture, name: str, rgb: bool, max_pixels: int) -> Union[str, bytes, np.ndarray]:
    """What a thread may read later, whatever the caller does to ``picture`` meanwhile.

    That is a path; the content of a file; or a copy of the pixels, uint8, (H, W) or (H, W, 3) BGR.
    UserError, with the picture's ``name``, if it is none of the forms, cannot be read, or is a PIL
    image, which decodes here, of more than ``max_pixels``. ``rgb``: an array's order is R, G, B.
    """
    if isinstance(picture, (str, os.PathLike)):
        return os.fsdecode(picture)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return bytes(picture)
    if isinstance(picture, np.ndarray):
        return _from_array(picture, name, rgb)
    try:
        if hasattr(picture, "read"):
            return _content(picture.read(), name)
        if hasattr(picture, "getbands"):
            return _from_pil(picture, name, max_pixels)
    except UserError:
        raise
    except Exception as error:  # whatever a foreign object's methods raise is one picture's fault
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: cannot be read: {said}")
    hint = "; cv2.imread returns None for a file that it cannot read" if picture is None else ""
    raise UserError(f"{name}: is a {_type(picture)}{hint}; {_FORMS}")


def _content(read, name):
    if not isinstance(read, (bytes, bytearray)):
        raise UserError(f"{name}: its read() gives {_type(read)}; open the file in binary mode")
    return bytes(read)


def _from_pil(picture, name, max_pixels):
    from PIL import ImageOps  # there, since the caller has an image of it

    width, height = picture.size
    if width * height > max_pixels:
        raise UserError(f"{name}: has {width}x{height} pixels, more than {max_pixels}")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("1", "L") and "transparency" not in picture.info:
        picture = picture.convert("L")
    elif picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    elif not picture.mode.startswith(("I", "F")):  # those have more than 8 bits
        picture = picture.convert("RGB")
    return _from_array(np.asarray(picture), name, rgb=True)


def _from_array(array, name, rgb):
    channels = 1 if array.ndim == 2 else array.shape[2] if array.ndim == 3 else 0
    if array.dtype != np.uint8 or not array.size or channels not in (1, 3, 4):
        raise UserError(f"{name}: is {_describe(array)}; {_SHAPES}")
    if array.ndim == 2:
        return array.copy()
    if channels == 1:
        return array[..., 0].copy()
    if channels == 4:
        array = on_white(array)
    return np.array(array[..., ::-1] if rgb else array, order="C")


def _describe(array):
    """Type, shape, range and what the shape looks like."""
    text = f"an array of {array.dtype} and shape {array.shape}"
    if array.size and array.dtype.kind in "biuf":
        text += f", values {float(array.min()):g} to {float(array.max()):g}"
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        text += ", channels first: transpose(1, 2, 0) puts them last"
    elif array.ndim == 4:
        text += ", several pictures in one"
    return text


def with_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    """(H, W) or (H, W, 3) BGR as a network of 1 or 3 channels takes it: (H, W) or (H, W, 3)."""
    if channels == 1 and picture.ndim == 3:
        return cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    if channels == 3 and picture.ndim == 2:
        return cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    return picture


def _type(value):
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
