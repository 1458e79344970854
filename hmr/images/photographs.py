"""Loads photographs in any format that Pillow reads (EXIF rotation, grey, alpha, 16 bits, CMYK) as upright RGB.

A photograph of more than 24 megapixels is downsampled while it is read (a JPEG is decoded at reduced size, which saves
memory). `Photo` keeps the size of the file, because users give boxes, and files contain cameras, in the upright pixels
of the file.

Left out: colour profiles (they do not affect a person's shape), raw and HEIC files (Pillow does not read them), and
images that would take gigabytes to decode (`common.reading.image_files`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from common.reading.image_files import open_image
from common.storage.files import PathLike
from common.storage.fingerprint import digest
from hmr.types import Box, Camera, Sample

__all__ = [
    "PHOTO_SUFFIXES",
    "Photo",
    "check_box",
    "describe_box",
    "load_photo",
    "photo_of",
    "photo_size",
    "photos_in",
    "read_photo",
    "sample_of",
    "to_rgb",
]

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp"})
RUN_FILES = (
    "manifest.jsonl",
    "pictures.jsonl",
)  # a folder with one of them holds the pictures that a run has written
MIN_SIDE = 16
MIN_BOX_SIDE = 8.0  # pixels
MAX_BOX_SIDE = 3.0  # relative to the photograph's longer side; the crop of the whole box is held in memory
MAX_PIXELS = 24_000_000  # in memory: 72 MB, twice the size of a usual phone's photograph


@dataclass(frozen=True)
class Photo:
    """Upright pixels, and the size of the image in the file."""

    image: UInt8[np.ndarray, "height width 3"]
    file_size: tuple[int, int]  # upright width and height

    @property
    def scale(self) -> float:
        """Pixels of `image` per pixel of the file; 1 unless the photograph was downsampled."""
        return self.image.shape[1] / self.file_size[0]

    def box_in_image(self, box_in_file: Box) -> Box:
        return _scaled(box_in_file, self.scale)

    def camera_in_image(self, camera_in_file: Camera) -> Camera:
        return camera_in_file.resize(self.image.shape[1], self.image.shape[0])

    def box_in_file(self, box: Box) -> Box:
        return _scaled(box, 1 / self.scale)


def describe_box(box: Box) -> str:
    return ",".join(f"{round(corner, 1):g}" for corner in (box.x0, box.y0, box.x1, box.y1))


def check_box(box: Box, size: tuple[int, int], where: str) -> None:
    """Raises ValueError, which begins with `where`, for a box that is too small, too large for a file of this
    size, or outside."""
    width, height = size
    if not box.side >= MIN_BOX_SIDE:
        raise ValueError(
            f"{where}: the longer side of the box {describe_box(box)} is {box.side:g} pixels; at least "
            f"{MIN_BOX_SIDE:g} are needed to see a person"
        )
    largest = MAX_BOX_SIDE * max(width, height)
    if not box.side <= largest:
        raise ValueError(
            f"{where}: the longer side of the box {describe_box(box)} is {box.side:g} pixels; in a {width} x {height} "
            f"image at most {largest:g} are allowed"
        )
    if box.x1 <= 0 or box.y1 <= 0 or box.x0 >= width or box.y0 >= height:
        raise ValueError(f"{where}: the box {describe_box(box)} lies outside the {width} x {height} image")


def photo_size(path: PathLike) -> tuple[int, int]:
    """Upright width and height of a photograph, from the file's header. Raises what `load_photo` raises."""
    with _opened(path) as opened:
        return _upright_size(opened)


def load_photo(path: PathLike) -> Photo:
    """Loads upright RGB pixels. Transparent pixels become mid-grey; a large photograph is downsampled.

    Raises FileNotFoundError if there is no file, and ValueError if it is not an image or is too small for a person.
    """
    with _opened(path) as opened:
        file_size = _upright_size(opened)
        image = ImageOps.exif_transpose(_at_most(opened, MAX_PIXELS))
    return Photo(to_rgb(image), file_size)


@contextmanager
def _opened(path: PathLike) -> Iterator[Image.Image]:
    """The image of a file that may turn out to be unreadable while it is decoded."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a photograph")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such photograph")
    with open_image(path, min_side=MIN_SIDE) as opened:
        yield opened


def read_photo(path: PathLike) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of `load_photo`, without the size of the file."""
    return load_photo(path).image


def photo_of(image: UInt8[np.ndarray, "height width 3"]) -> Photo:
    """A `Photo` of pixels that do not come from a file of their own, such as a frame of a video."""
    return Photo(image, (image.shape[1], image.shape[0]))


def sample_of(image: UInt8[np.ndarray, "height width 3"], box: Box, camera: Camera | None = None) -> Sample:
    """One person in a photograph; the camera is estimated if it is not given. The id is a hash of the pixels and the
    box, so that the same noise is drawn for every camera."""
    camera = camera or Camera.estimate(image.shape[1], image.shape[0])
    return Sample(digest(image.tobytes(), repr(box)), image, box, camera)


def photos_in(folder: Path, out: Path) -> list[Path]:
    """The photographs in a folder at any depth, ordered by name, without those under the output folder `out`, or in the
    subfolders of other runs."""
    inside = sorted(folder.rglob("*"))
    runs = {file.parent for file in inside if file.name in RUN_FILES} - {folder}
    return [
        file
        for file in inside
        if file.suffix.lower() in PHOTO_SUFFIXES
        and file.is_file()
        and not file.resolve().is_relative_to(out.resolve())
        and not any(run in file.parents for run in runs)
    ]


def to_rgb(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """Converts an image of any Pillow mode to 8-bit RGB."""
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits or more: scale the range to 8 bits
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        grey = (np.clip(values / max(float(values.max()), 1.0), 0, 1) * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        backdrop = Image.new("RGBA", layered.size, (128, 128, 128, 255))
        image = Image.alpha_composite(backdrop, layered)
    return np.asarray(image.convert("RGB"))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """EXIF orientations 5 to 8 swap width and height."""
    width, height = image.size
    swapped = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (height, width) if swapped else (width, height)


def _at_most(image: Image.Image, pixels: int) -> Image.Image:
    """Decodes the image in place, downsampled to at most this many pixels."""
    share = pixels / (image.width * image.height)
    if share < 1:
        size = (math.floor(image.width * share**0.5), math.floor(image.height * share**0.5))
        image.draft(None, size)  # a JPEG decodes at a half, a quarter or an eighth
        image.thumbnail(size)
    image.load()
    return image


def _scaled(box: Box, scale: float) -> Box:
    return Box(box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale)
