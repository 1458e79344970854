"""Keeps the parts of questions beside a trace, which names them by hash.

    FOLDER/HASH.txt    a text, as a model reads it
    FOLDER/HASH.jpg    a picture, compressed, with its caption as the comment of the file

A part that several questions share is kept once. Texts are redacted as the trace is.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from PIL import Image

from common.redaction import writable
from common.storage.files import PathLike, write_bytes, write_text

__all__ = ["PARTS", "PICTURE_SUFFIX", "TEXT_SUFFIX", "PartStore", "open_store", "parts_kept_in"]

PARTS = "parts"  # the folder's usual name, beside the trace
TEXT_SUFFIX, PICTURE_SUFFIX = ".txt", ".jpg"
QUALITY = 88  # a panel of 448 x 224 pixels takes about 20 kB
MAX_CAPTION_BYTES = 1000  # the comment of a JPEG has at most 64 kB


class PartStore:
    """The folder, which is made if needed. redact: applied to texts."""

    def __init__(self, folder: PathLike, redact: Callable[[str], str]) -> None:
        self._folder, self._redact = Path(folder), redact
        self._folder.mkdir(parents=True, exist_ok=True)

    def keep(self, texts: Mapping[str, str], pictures: Mapping[str, tuple[bytes, str]]) -> None:
        """Write those that are not there yet, by their hashes. pictures: a PNG and its caption each."""
        for sha256, text in texts.items():
            if not (path := self._folder / f"{sha256}{TEXT_SUFFIX}").exists():
                write_text(path, writable(self._redact(text)))
        for sha256, (png, caption) in pictures.items():
            if not (path := self._folder / f"{sha256}{PICTURE_SUFFIX}").exists():
                write_bytes(path, _compressed(png, caption))


# Nodes run in a copy of the context in which the graph was invoked.
_store: ContextVar[PartStore | None] = ContextVar("part_store", default=None)


@contextmanager
def parts_kept_in(store: PartStore | None) -> Iterator[None]:
    """Within the block, questions are kept there; None: nowhere."""
    token = _store.set(store)
    try:
        yield
    finally:
        _store.reset(token)


def open_store() -> PartStore | None:
    """Where the questions of this critique are kept; None if nowhere."""
    return _store.get()


def _compressed(png: bytes, caption: str) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").save(
            buffer, "JPEG", quality=QUALITY, comment=caption.encode()[:MAX_CAPTION_BYTES]
        )
    return buffer.getvalue()
