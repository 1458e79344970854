"""Photographs as people have them: turned by EXIF, grey, with alpha, 16-bit, CMYK, broken."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from hmr.types import Box, Camera, Sample

__all__ = ["read_photo", "sample_of"]

MIN_SIDE = 16


def read_photo(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Upright RGB pixels; what is transparent becomes mid-grey.

    Raises FileNotFoundError where there is no file, ValueError where it is no image or one too small to hold a person.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such photograph")
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not an image that can be read ({error})") from error
    if min(image.size) < MIN_SIDE:
        raise ValueError(
            f"{path}: {image.width} x {image.height} pixels; a person needs at least {MIN_SIDE} a side"
        )
    return _to_rgb(image)


def sample_of(image: UInt8[np.ndarray, "height width 3"], box: Box) -> Sample:
    """One person of a photograph that says nothing of its lens; the id is the content's hash."""
    digest = hashlib.sha256(image.tobytes() + repr(box).encode()).hexdigest()[:16]
    return Sample(digest, image, box, Camera.estimate(image.shape[1], image.shape[0]))


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits or more: keep the range, not the low byte
        values = np.asarray(image, dtype=np.float64)
        grey = (values / max(float(values.max()), 1.0) * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        backdrop = Image.new("RGBA", layered.size, (128, 128, 128, 255))
        image = Image.alpha_composite(backdrop, layered)
    return np.asarray(image.convert("RGB"))
