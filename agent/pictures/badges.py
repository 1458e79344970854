"""What pictures for a judge are made of besides renders, each drawn once: footers, badges; and PNGs written quickly.

Pixel for pixel what `hmr.render.overlay.panel` draws, whose text takes longer than all else about a panel. Every label
order shows every panel under another badge: the rows below it are written once (`StoredRows`).
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
    """Both views beside each other over the footer that names them; the badge is still to come."""
    size = len(overlaid)
    drawn = _blank_panel(size).copy()
    drawn[:size, :size], drawn[:size, -size:] = overlaid, side
    return drawn


@lru_cache(maxsize=4)
def _blank_panel(size: int) -> UInt8[np.ndarray, "height width 3"]:
    blank = np.zeros((size, size, 3), np.uint8)
    return panel(None, blank, blank, "")


def below_badge(size: int) -> int:
    """A row of a view of `size` pixels that no badge reaches."""
    return size // 5 + 3 * GUTTER


def with_badge(
    picture: UInt8[np.ndarray, "height width 3"], label: str, size: int
) -> UInt8[np.ndarray, "height width 3"]:
    """A copy with the label in the upper left corner, as `panel` draws it on a view of `size` pixels."""
    badge, opaque = _badge(label, size)
    drawn = picture.copy()
    np.copyto(drawn[: len(badge), : len(badge)], badge, where=opaque)
    return drawn


@lru_cache(maxsize=256)
def _badge(
    label: str, size: int
) -> tuple[UInt8[np.ndarray, "corner corner 3"], Bool[np.ndarray, "corner corner 1"]]:
    """The upper left corner of a view with nothing but the badge, and where that is: what `panel` draws over white as
    over black."""
    over_black, over_white = (
        panel(None, blank, blank, label)[:size, :size]
        for blank in (np.full((size, size, 3), grey, np.uint8) for grey in (0, 255))
    )
    opaque = (over_black == over_white).all(axis=-1, keepdims=True)
    corner = 1 + int(max(place.max() for place in np.nonzero(opaque)[:2]))
    return over_black[:corner, :corner], opaque[:corner, :corner]


@dataclass(frozen=True)
class StoredRows:
    """Rows of a picture as they stand in its file, and the checksum that the whole file's is made from."""

    width: int
    height: int
    chunk: bytes
    adler: int

    @staticmethod
    def of(image: UInt8[np.ndarray, "height width 3"]) -> StoredRows:
        height, width = image.shape[:2]
        rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each begins with the number of its filter: none
        rows[:, 1:] = image.reshape(height, -1)
        stored = zlib.compressobj(level=0, wbits=-zlib.MAX_WBITS)  # bare blocks
        blocks = stored.compress(rows.data) + stored.flush(zlib.Z_FULL_FLUSH)
        return StoredRows(width, height, _chunk(b"IDAT", blocks), zlib.adler32(rows.data))

    @property
    def size(self) -> int:
        return self.height * (1 + 3 * self.width)


def stored_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """The picture as a PNG, quickly: not compressed.

    Backends write their own files from these. Pillow tries five filters on every row, at any level of compression, and
    takes ten times as long as all the rest of a picture.
    """
    return joined_png([StoredRows.of(image)])


def joined_png(pieces: Sequence[StoredRows]) -> bytes:
    """A PNG (W3C, third edition) of these rows, from top to bottom."""
    size = pieces[0].width, sum(piece.height for piece in pieces)
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB
    adler = 1
    for piece in pieces:
        adler = _adler_of_both(adler, piece.adler, piece.size)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", b"\x78\x01"),  # a zlib stream (RFC 1950) begins
            *(piece.chunk for piece in pieces),
            _chunk(b"IDAT", b"\x01\x00\x00\xff\xff" + struct.pack(">I", adler)),  # an empty block, the end
            _chunk(b"IEND", b""),
        ]
    )


def _adler_of_both(first: int, second: int, size: int) -> int:
    """Adler-32 (RFC 1950) of one text after another, from that of each and the size of the second."""
    low, high = first & 0xFFFF, first >> 16
    both = (high + (second >> 16) + size * (low - 1)) % ADLER_BASE
    return both << 16 | (low + (second & 0xFFFF) - 1) % ADLER_BASE


def _chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(data, zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", crc)])
