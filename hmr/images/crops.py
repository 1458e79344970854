"""Crops photographs to square boxes, and encodes pictures as PNG or JPEG."""

from __future__ import annotations

import io
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hmr.types import Box

__all__ = ["OUTSIDE", "crop_image", "encode_jpeg", "encode_png"]

OUTSIDE = 128  # the grey level beyond a photograph's border


def crop_image(
    image: UInt8[np.ndarray, "height width 3"], box: Box, size: int
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The image that `Camera.crop(box, size)` projects to: a square box, resampled bilinearly (with antialiasing when
    it shrinks), grey beyond the border of the photograph."""
    margin = math.ceil(max((box.x1 - box.x0) / size, 1.0))  # the radius of the resampling filter
    left, top = math.floor(box.x0) - margin, math.floor(box.y0) - margin
    right, bottom = math.ceil(box.x1) + margin, math.ceil(box.y1) + margin
    window = Image.fromarray(_window(image, left, top, right, bottom))
    inner = (box.x0 - left, box.y0 - top, box.x1 - left, box.y1 - top)
    return np.asarray(window.resize((size, size), Image.Resampling.BILINEAR, inner, reducing_gap=2.0))


def _window(image: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """A rectangle of whole pixels of the image, grey outside of it."""
    height, width = image.shape[:2]
    rows = np.clip([top, bottom], 0, height)
    columns = np.clip([left, right], 0, width)
    inside = image[slice(*rows), slice(*columns)]
    if inside.shape[:2] == (bottom - top, right - left):
        return inside
    window = np.full((bottom - top, right - left, 3), OUTSIDE, np.uint8)
    window[slice(*(rows - top)), slice(*(columns - left))] = inside
    return window


def encode_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    return _encode(image, "PNG")


def encode_jpeg(image: UInt8[np.ndarray, "height width 3"], quality: int = 90) -> bytes:
    return _encode(image, "JPEG", quality=quality)


def _encode(image: np.ndarray, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()
