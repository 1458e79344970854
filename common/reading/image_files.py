"""Opens untrusted image files with Pillow: every fault is a ValueError, and the size is limited before decoding.

A file of a few kilobytes can name any size, and decoding takes up to 16 bytes per pixel. Pillow refuses more than 178
megapixels. That much is read only from a JPEG, which can be decoded at reduced size (`Image.draft`).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from common.storage.files import PathLike

__all__ = ["MAX_WHOLE_PIXELS", "check_pixels", "image_size", "open_image", "unreadable_images_named"]

MAX_WHOLE_PIXELS = 64_000_000  # of a format that is decoded at its full size; a WebP of that size takes 1 GB


@contextmanager
def open_image(source: PathLike | bytes, title: str = "", min_side: int = 1) -> Iterator[Image.Image]:
    """The image in a file or in the bytes of one. Decode it within the block.

    Raises FileNotFoundError if there is no file, and ValueError, which begins with `title` or the path, if Pillow
    cannot read it, also while it is decoded, if it is too large, or if a side is shorter than `min_side`.
    """
    where = title or str(source)
    with unreadable_images_named(where):
        opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    with opened:
        if min(opened.size) < min_side:
            raise ValueError(
                f"{where}: {opened.width} x {opened.height} pixels; the minimum is {min_side} per side"
            )
        if opened.format not in ("JPEG", "MPO"):
            check_pixels(opened.size, f"{where}: ")
        with unreadable_images_named(where):
            yield opened


@contextmanager
def unreadable_images_named(where: str) -> Iterator[None]:
    """Around calls of Pillow, whose readers raise errors of many types for a damaged file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tags, and about sizes that are checked here
            yield
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{where}: not an image that can be read ({error})") from error


def check_pixels(size: tuple[int, int], where: str) -> None:
    """Raises ValueError, which begins with `where`, for an image that would take too much memory to decode."""
    width, height = size
    if width * height > MAX_WHOLE_PIXELS:
        raise ValueError(
            f"{where}{width} x {height} pixels; at most {MAX_WHOLE_PIXELS:,} are read, and more only from a JPEG"
        )


def image_size(path: PathLike) -> tuple[int, int]:
    """(width, height) of the stored pixels, from the file's header. EXIF rotation is ignored, as annotations do."""
    with open_image(path) as image:
        return image.size
