"""Cached parts of a backend's images (footers, label badges), and a fast PNG writer.

The result is pixel for pixel that of `hmr.render.overlay.panel`, which spends most of its time on text. Each label
order shows each panel with another badge; the rows below the badge are encoded once (`StoredRows`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, UInt8

from hmr.render.overlay import GUTTER, panel

__all__ = ["StoredRows", "below_badge", "framed", "joined_png", "stored_png", "with_badge"]

ADLER_BASE = 65521


def framed(
    overlaid: UInt8[np.ndarray, "size size 3"], side: UInt8[np.ndarray, "size size 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Both views side by side above the footer that names them, without a badge."""
    size = len(overlaid)
    image = _blank_panel(size).copy()
    image[:size, :size], image[:size, -size:] = overlaid, side
    return image


@lru_cache(maxsize=4)
def _blank_panel(size: int) -> UInt8[np.ndarray, "height width 3"]:
    blank = np.zeros((size, size, 3), np.uint8)
    return panel(None, blank, blank, "")


def below_badge(size: int) -> int:
    """The first row, of a view of `size` pixels, that is below any badge."""
    return size // 5 + 3 * GUTTER


def with_badge(
    picture: UInt8[np.ndarray, "height width 3"], label: str, size: int
) -> UInt8[np.ndarray, "height width 3"]:
    """A copy with the label in the upper left corner, as `panel` draws it on a view of `size` pixels."""
    badge, opaque = _badge(label, size)
    copy = picture.copy()
    np.copyto(copy[: len(badge), : len(badge)], badge, where=opaque)
    return copy


@lru_cache(maxsize=256)
def _badge(
    label: str, size: int
) -> tuple[UInt8[np.ndarray, "corner corner 3"], Bool[np.ndarray, "corner corner 1"]]:
    """The upper left corner of a view with the badge, and the badge's pixels: those that are equal over black and
    white."""
    over_black, over_white = (
        panel(None, blank, blank, label)[:size, :size]
        for blank in (np.full((size, size, 3), grey, np.uint8) for grey in (0, 255))
    )
    opaque = (over_black == over_white).all(axis=-1, keepdims=True)
    corner = 1 + int(max(place.max() for place in np.nonzero(opaque)[:2]))
    return over_black[:corner, :corner], opaque[:corner, :corner]


@dataclass(frozen=True)
class StoredRows:
    """Encoded rows of a PNG, and their checksum, from which that of the file is computed."""

    width: int
    height: int
    chunk: bytes
    adler: int

    @staticmethod
    def of(image: UInt8[np.ndarray, "height width 3"]) -> StoredRows:
        height, width = image.shape[:2]
        rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row starts with its filter type, 0
        rows[:, 1:] = image.reshape(height, -1)
        stored = zlib.compressobj(level=0, wbits=-zlib.MAX_WBITS)  # raw deflate blocks
        blocks = stored.compress(rows.data) + stored.flush(zlib.Z_FULL_FLUSH)
        return StoredRows(width, height, _chunk(b"IDAT", blocks), zlib.adler32(rows.data))

    @property
    def size(self) -> int:
        return self.height * (1 + 3 * self.width)


def stored_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The image as an uncompressed PNG.

    Backends encode their own files from it. Pillow tries five filters per row at any compression level, which takes ten
    times as long as everything else about an image.
    """
    return joined_png([StoredRows.of(image)])


def joined_png(pieces: Sequence[StoredRows]) -> bytes:
    """A PNG (W3C, third edition) of these rows, from top to bottom; all of one width."""
    size = pieces[0].width, sum(piece.height for piece in pieces)
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)  # 8 bits per channel, RGB
    adler = 1
    for piece in pieces:
        adler = _adler_of_both(adler, piece.adler, piece.size)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", b"\x78\x01"),  # start of a zlib stream (RFC 1950)
            *(piece.chunk for piece in pieces),
            _chunk(b"IDAT", b"\x01\x00\x00\xff\xff" + struct.pack(">I", adler)),  # an empty final block
            _chunk(b"IEND", b""),
        ]
    )


def _adler_of_both(first: int, second: int, size: int) -> int:
    """Adler-32 (RFC 1950) of two concatenated strings, from that of each and the size of the second."""
    low, high = first & 0xFFFF, first >> 16
    both = (high + (second >> 16) + size * (low - 1)) % ADLER_BASE
    return both << 16 | (low + (second & 0xFFFF) - 1) % ADLER_BASE


def _chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(data, zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", crc)])
