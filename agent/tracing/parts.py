"""Keeps the parts of questions beside a trace, which names them by hash.

    FOLDER/HASH.txt    a text, as a model reads it
    FOLDER/HASH.jpg    a picture, compressed, with its caption as the comment of the file

A part that several questions share is kept once. Texts are redacted as the trace is.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from PIL import Image

from agent.vlm.protocol import ImagePart, Part
from common.redaction import writable
from common.storage.files import PathLike, write_bytes, write_text

__all__ = ["PARTS", "PICTURE_SUFFIX", "TEXT_SUFFIX", "PartStore", "keep_parts", "parts_kept_in"]

PARTS = "parts"  # the folder's usual name, beside the trace
TEXT_SUFFIX, PICTURE_SUFFIX = ".txt", ".jpg"
QUALITY = 88  # a panel of 448 x 224 pixels takes about 20 kB


class PartStore:
    """The folder, which is made if needed. redact: applied to texts."""

    def __init__(self, folder: PathLike, redact: Callable[[str], str]) -> None:
        self._folder, self._redact = Path(folder), redact
        self._folder.mkdir(parents=True, exist_ok=True)

    def keep(self, parts: Sequence[Part]) -> None:
        """Write those that are not there yet."""
        for part in parts:
            suffix = PICTURE_SUFFIX if isinstance(part, ImagePart) else TEXT_SUFFIX
            path = self._folder / f"{part.sha256}{suffix}"
            if path.exists():
                continue
            if isinstance(part, ImagePart):
                write_bytes(path, _compressed(part))
            else:
                write_text(path, writable(self._redact(part.text)))


# Nodes run in a copy of the context in which the graph was invoked.
_store: ContextVar[PartStore | None] = ContextVar("part_store", default=None)


@contextmanager
def parts_kept_in(store: PartStore | None) -> Iterator[None]:
    """Within the block, `keep_parts` writes there; None: nowhere."""
    token = _store.set(store)
    try:
        yield
    finally:
        _store.reset(token)


def keep_parts(parts: Sequence[Part]) -> None:
    """Keep the parts of a question, if its trace does. Raises OSError if that is impossible."""
    if (store := _store.get()) is not None:
        store.keep(parts)


def _compressed(part: ImagePart) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(part.png)) as picture:
        picture.convert("RGB").save(buffer, "JPEG", quality=QUALITY, comment=part.caption.encode())
    return buffer.getvalue()
