"""The questions of a trace with their texts and pictures, as far as the run kept them (`agent.tracing.parts`).

Pictures are inside the page once each, however many questions show them, and in all at most `MAX_PICTURES_BYTES`. A
text is shown at its first question of a critique; later ones name it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.tracing.parts import PARTS, PICTURE_SUFFIX, TEXT_SUFFIX
from eval.report.trace.pictures import Picture, read_picture
from eval.report.trace.requests import MAX_CHARS, Request

__all__ = ["KeptParts", "Question"]

MAX_PICTURES_BYTES = 12_000_000  # of the page
_HASH = re.compile(r"[0-9a-f]{64}")
_BLOCK = re.compile(r"<(\w{1,40})>\n")  # how a part of data begins
INSTRUCTIONS = "instructions"


@dataclass(frozen=True)
class PageText:
    """A text of a question. `shown_at`: the id of the place where the page has it already."""

    name: str
    text: str
    id: str
    shown_at: str = ""


@dataclass(frozen=True)
class SharedPicture:
    """A picture of any number of questions, by its id on the page."""

    id: str
    picture: Picture


@dataclass(frozen=True)
class Question:
    """A request and what was asked. Of a repair, only what it adds to the question before."""

    request: Request
    texts: tuple[PageText, ...] = ()
    pictures: tuple[SharedPicture, ...] = ()
    lacking: int = 0  # parts that were not kept, or do not fit into the page


class KeptParts:
    """What a run kept of its questions; empty if it kept nothing."""

    def __init__(self, run: Path) -> None:
        self._folder = run / PARTS
        self._pictures: dict[str, SharedPicture | None] = {}  # by hash
        self._bytes = 0

    @property
    def pictures(self) -> list[SharedPicture]:
        """Those of all questions so far, each once."""
        return [picture for picture in self._pictures.values() if picture is not None]

    def questions(self, requests: Sequence[Request], shown: dict[str, str]) -> list[Question]:
        """shown: hash and id of the texts that the critique has shown; those of these requests are added."""
        return [self._question(request, shown) for request in requests]

    def _question(self, request: Request, shown: dict[str, str]) -> Question:
        texts: list[PageText] = []
        pictures: list[SharedPicture] = []
        asked = request.parts[-1:] if request.is_repair else request.parts
        for sha256 in asked:
            if (picture := self._picture(sha256)) is not None:
                pictures.append(picture)
            elif (text := self._text(sha256)) is not None:
                place = shown.get(sha256, "")
                texts.append(PageText(_name(text), "" if place else text, f"t{len(shown)}", place))
                shown.setdefault(sha256, texts[-1].id)
        return Question(request, tuple(texts), tuple(pictures), len(asked) - len(texts) - len(pictures))

    def _text(self, sha256: str) -> str | None:
        path = self._path(sha256, TEXT_SUFFIX)
        if path is None:
            return None
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_CHARS + 1)
        return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}\n... the rest is in {path.name}"

    def _picture(self, sha256: str) -> SharedPicture | None:
        if sha256 not in self._pictures:
            path = self._path(sha256, PICTURE_SUFFIX)
            found = None if path is None else read_picture(path)
            if found is not None and self._bytes + len(found.data_uri) > MAX_PICTURES_BYTES:
                found = None
            self._bytes += 0 if found is None else len(found.data_uri)
            self._pictures[sha256] = SharedPicture(f"p{len(self._pictures)}", found) if found else None
        return self._pictures[sha256]

    def _path(self, sha256: str, suffix: str) -> Path | None:
        """None for a part that is not there. A trace may come from elsewhere, so that its words are not used as paths,
        and a link could lead to a file that is not the run's."""
        path = self._folder / f"{sha256}{suffix}"
        is_linked = self._folder.is_symlink() or path.is_symlink()
        return path if _HASH.fullmatch(sha256) and path.is_file() and not is_linked else None


def _name(text: str) -> str:
    block = _BLOCK.match(text)
    return block[1].replace("_", " ") if block else INSTRUCTIONS
