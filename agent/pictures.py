"""What pictures for a judge are made of besides renders, each drawn once: footers, badges; and PNGs written quickly.

Pixel for pixel what `hmr.render.overlay.panel` draws, whose text takes longer than all else about a panel.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, UInt8

from hmr.render.overlay import panel

__all__ = ["framed", "stored_png", "with_badge"]


def framed(
    overlaid: UInt8[np.ndarray, "size size 3"], side: UInt8[np.ndarray, "size size 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Both views beside each other over the footer that names them; the badge is still to come."""
    size = len(overlaid)
    drawn = _blank_panel(size).copy()
    drawn[:size, :size], drawn[:size, -size:] = overlaid, side
    return drawn


@lru_cache(maxsize=4)
def _blank_panel(size: int) -> UInt8[np.ndarray, "height width 3"]:
    blank = np.zeros((size, size, 3), np.uint8)
    return panel(None, blank, blank, "")


def with_badge(
    picture: UInt8[np.ndarray, "height width 3"], label: str, size: int
) -> UInt8[np.ndarray, "height width 3"]:
    """A copy with the label in the upper left corner, as `panel` draws it on a view of `size` pixels."""
    badge, opaque = _badge(label, size)
    drawn = picture.copy()
    drawn[:size, :size][opaque] = badge[opaque]
    return drawn


@lru_cache(maxsize=256)
def _badge(label: str, size: int) -> tuple[UInt8[np.ndarray, "size size 3"], Bool[np.ndarray, "size size"]]:
    """A view with nothing but the badge, and where that is: what `panel` draws over white as over black."""
    over_black, over_white = (
        panel(None, blank, blank, label)[:size, :size]
        for blank in (np.full((size, size, 3), grey, np.uint8) for grey in (0, 255))
    )
    return over_black, (over_black == over_white).all(axis=-1)


def stored_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The picture as a PNG (W3C, third edition) whose rows are stored as they are.

    Every label order writes every panel anew, and backends write their own files from these: Pillow tries five filters
    on every row, at any level of compression, and takes ten times as long as all the rest of a label.
    """
    height, width = image.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with the number of its filter: none
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), level=0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
