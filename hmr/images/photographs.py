"""Photographs as people have them: turned by EXIF, grey, with alpha, 16-bit, CMYK, enormous, tiny, broken.

A photograph of more than 24 megapixels is read smaller (a JPEG is decoded small, so that it never fills the memory),
and remembers the size of its file: people give boxes, and files hold cameras, in the file's own upright pixels.

Left out: colour profiles (a person's shape survives them), raw and HEIC files (Pillow reads neither), and images
beyond 178 megapixels, which Pillow refuses as bombs.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from hmr.types import Box, Camera, Sample

__all__ = [
    "PHOTO_SUFFIXES",
    "Photo",
    "load_photo",
    "photo_of",
    "read_photo",
    "sample_of",
    "to_rgb",
]

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
MIN_SIDE = 16
MAX_PIXELS = 24_000_000  # of what is kept in memory: 72 MB, twice a usual telephone's


@dataclass(frozen=True)
class Photo:
    """Upright pixels, and the size of the file they came from."""

    image: UInt8[np.ndarray, "height width 3"]
    file_size: tuple[int, int]  # upright width and height

    @property
    def scale(self) -> float:
        """Pixels of `image` a pixel of the file; 1 unless the file was enormous."""
        return self.image.shape[1] / self.file_size[0]

    def box_here(self, box_in_file: Box) -> Box:
        return _scaled(box_in_file, self.scale)

    def box_in_file(self, box: Box) -> Box:
        return _scaled(box, 1 / self.scale)


def load_photo(path: Path) -> Photo:
    """Upright RGB pixels; what is transparent becomes mid-grey, what is enormous becomes smaller.

    Raises FileNotFoundError where there is no file, ValueError where it is no image or one too small to hold a person.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such photograph")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # what is enormous is made smaller here
            with Image.open(path) as opened:
                file_size = _upright_size(opened)
                image = ImageOps.exif_transpose(_at_most(opened, MAX_PIXELS))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not an image that can be read ({error})") from error
    if min(file_size) < MIN_SIDE:
        raise ValueError(
            f"{path}: {file_size[0]} x {file_size[1]} pixels; a person needs at least {MIN_SIDE} a side"
        )
    return Photo(to_rgb(image), file_size)


def read_photo(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of `load_photo`, for those who know the photograph to be of a usual size."""
    return load_photo(path).image


def photo_of(image: UInt8[np.ndarray, "height width 3"]) -> Photo:
    """Pixels that have no file of their own, such as a video's."""
    return Photo(image, (image.shape[1], image.shape[0]))


def sample_of(image: UInt8[np.ndarray, "height width 3"], box: Box) -> Sample:
    """One person of a photograph that says nothing of its lens; the id is the content's hash."""
    digest = hashlib.sha256(image.tobytes() + repr(box).encode()).hexdigest()[:16]
    return Sample(digest, image, box, Camera.estimate(image.shape[1], image.shape[0]))


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """Any of Pillow's modes as eight bits of red, green and blue."""
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits or more: keep the range, not the low byte
        values = np.asarray(image, dtype=np.float32)
        grey = (np.clip(values / max(float(values.max()), 1.0), 0, 1) * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        backdrop = Image.new("RGBA", layered.size, (128, 128, 128, 255))
        image = Image.alpha_composite(backdrop, layered)
    return np.asarray(image.convert("RGB"))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """EXIF orientations 5 to 8 are quarter turns."""
    width, height = image.size
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _at_most(image: Image.Image, pixels: int) -> Image.Image:
    """The image with its pixels decoded, in place; a JPEG that must shrink is decoded at a fraction of its size."""
    share = pixels / (image.width * image.height)
    if share < 1:
        size = (math.floor(image.width * share**0.5), math.floor(image.height * share**0.5))
        image.draft(None, size)  # a JPEG decodes at a half, a quarter or an eighth
        image.thumbnail(size)
    image.load()
    return image


def _scaled(box: Box, scale: float) -> Box:
    return Box(box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale)
