"""Limits on the text that a memory accepts.

The text of a memory becomes part of all later prompts, so a sentence from one bad reply would be a permanent prompt
injection. Therefore rules and rationales are one printable line with a maximum length and without addresses. The
meaning is not checked; that is the purpose of the quarantine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["MAX_TAGS", "MAX_TAG_CHARS", "MAX_TEXT_CHARS", "check_tags", "check_text", "normalise_tags"]

MAX_TEXT_CHARS = 300  # two sentences; mined rules have one
MAX_TAGS = 12
MAX_TAG_CHARS = 40

_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]*://|\bwww\.|\b(?:mailto|javascript|data):\S"
    r"|\b[a-z0-9-]+\.(?:com|org|net|io|ai|dev|info|xyz|app|gov|edu)\b",
    re.IGNORECASE,
)


def check_text(what: str, text: str) -> None:
    """Raises ValueError, with `what` as its subject, unless `text` is one printable line without addresses."""
    if not text.strip():
        raise ValueError(f"{what} needs some text, not {text!r}")
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"{what} may have {MAX_TEXT_CHARS} characters, not {len(text)}: {text[:60]!r}...")
    if not text.isprintable():
        raise ValueError(f"{what} must be one printable line, not {text!r}")
    if _ADDRESS.search(text):
        raise ValueError(f"{what} must not contain an address: {text!r}")


def check_tags(what: str, tags: tuple[str, ...]) -> None:
    """Raises ValueError, with `what` as its subject, unless `tags` are few, short and printable."""
    if len(tags) > MAX_TAGS:
        raise ValueError(f"{what} may have {MAX_TAGS} tags, not {len(tags)}")
    for tag in tags:
        if not tag or len(tag) > MAX_TAG_CHARS or not tag.isprintable() or _ADDRESS.search(tag):
            raise ValueError(f"a tag of {what} has 1 to {MAX_TAG_CHARS} printable characters, not {tag!r}")


def normalise_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags in stored form: trimmed, case-folded, unique, in alphabetical order."""
    return tuple(sorted({tag.strip().casefold() for tag in tags}))
