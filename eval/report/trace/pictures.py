"""The pictures of critiques: which files of a run's folder belong to which critique.

    RUN/pictures.jsonl    one line per critique: its trace id, and its picture files with captions

A command that writes pictures of a critique beside the trace adds a line here, so that a page about the trace can show
them. If a later critique wrote the same file, the file is the later one's. Pictures that a backend was asked about are
elsewhere (`eval.report.trace.questions`).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from common.storage.jsonl import open_for_append

__all__ = ["Picture", "PictureIndex", "read_picture", "record_pictures"]

INDEX = "pictures.jsonl"
MAX_SIDE = 1200  # pixels on the page: the text of a group's sheet stays readable, in about 100 kB
MAX_PIXELS = 50_000_000  # of a file; larger ones are left out
QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """A picture inside the page, in pixels as there."""

    data_uri: str
    caption: str
    width: int
    height: int


def record_pictures(folder: Path, trace: str, captions: Mapping[str, str]) -> None:
    """Note the files that show a critique. captions: by the name of the file in `folder`."""
    with open_for_append(folder / INDEX) as file:
        file.write(json.dumps({"trace": trace, "files": dict(captions)}) + "\n")


class PictureIndex:
    """The pictures of the critiques of one run; empty if the folder has no index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, tuple[str, str]] = {}  # trace and caption by file
        path = folder / INDEX
        lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
        for line in lines:
            self._add(line)

    def of(self, trace: str) -> list[Picture]:
        """Those of a critique that can still be read, reduced to `MAX_SIDE`."""
        found = [(name, caption) for name, (owner, caption) in self._files.items() if owner == trace]
        pictures = (read_picture(self._folder / name, caption) for name, caption in found)
        return [picture for picture in pictures if picture is not None]

    def _add(self, line: str) -> None:
        """A line of another shape is left out."""
        try:
            record: Any = json.loads(line)
            trace, files = str(record["trace"]), dict(record["files"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        for name, caption in files.items():
            # the page may be passed on, so that it must not take in files from elsewhere
            if Path(name).name == name and not (self._folder / name).is_symlink():
                self._files[name] = (trace, str(caption))


def read_picture(path: Path, caption: str | None = None) -> Picture | None:
    """The picture reduced to `MAX_SIDE`; None for a file that is gone, too large, or no picture.

    caption: None for the comment in the file.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return None
            comment = picture.info.get("comment", b"")
            reduced = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    reduced.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    reduced.save(buffer, "JPEG", quality=QUALITY)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    said = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else ""
    return Picture(uri, said if caption is None else caption, *reduced.size)
