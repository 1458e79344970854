"""Limits on the text that a memory accepts.

The text of a memory becomes part of all later prompts, so a sentence from one bad reply would be a permanent prompt
injection. Therefore rules and rationales are one printable line with a maximum length, without addresses, tags and
names of roles in a conversation. The meaning is not checked; that is the purpose of the quarantine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = [
    "MAX_TAGS",
    "MAX_TAG_CHARS",
    "MAX_TEXT_CHARS",
    "check_tags",
    "check_text",
    "is_word",
    "normalise_tags",
]

MAX_TEXT_CHARS = 300  # two sentences; mined rules have one
MAX_TAGS = 12
MAX_TAG_CHARS = 40

# A host needs no scheme: a domain of two letters, of a known name, or of any name before a path or a port. A capital in
# "bent.It" is a forgotten space, not Italy.
_ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]{0,20}://|\bwww\.|\b(?:mailto|javascript|data):\S|\S@\S"
    r"|[a-z0-9]\.(?:com|org|net|info|xyz|app|dev|gov|edu|site|online|cloud|tech|store|top|club|test|example|local)\b"
    r"|[a-z0-9]\.(?-i:[a-z]{2}|[A-Z]{2})\b(?!\.)|[a-z0-9]\.[a-z]{2,}[/:]\S"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}\b|\blocalhost\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[\w:.%-]{1,60}")
_MARKUP = re.compile(
    r"</?[a-z!]|<\||\[(?:/|inst\])|```|\b(?:system|assistant|user|developer|human)\s*:", re.IGNORECASE
)


def check_text(what: str, text: str) -> None:
    """Raises ValueError, with `what` as its subject, unless `text` is one printable line, no address and no markup."""
    if not text.strip():
        raise ValueError(f"{what} needs some text, not {text!r}")
    if len(text) > MAX_TEXT_CHARS:
        raise ValueError(f"{what} may have {MAX_TEXT_CHARS} characters, not {len(text)}: {text[:60]!r}...")
    if not text.isprintable():
        raise ValueError(f"{what} must be one printable line, not {text!r}")
    if _ADDRESS.search(text):
        raise ValueError(f"{what} must not contain an address: {text!r}")
    if _MARKUP.search(text):
        raise ValueError(f"{what} must not contain a tag or the name of a role: {text!r}")


def check_tags(what: str, tags: tuple[str, ...]) -> None:
    """Raises ValueError, with `what` as its subject, unless `tags` are few, short and printable."""
    if len(tags) > MAX_TAGS:
        raise ValueError(f"{what} may have {MAX_TAGS} tags, not {len(tags)}")
    for tag in tags:
        hostile = _ADDRESS.search(tag) or _MARKUP.search(tag)
        if not tag or len(tag) > MAX_TAG_CHARS or not tag.isprintable() or hostile:
            raise ValueError(f"a tag of {what} has 1 to {MAX_TAG_CHARS} printable characters, not {tag!r}")


def is_word(text: str) -> bool:
    """Whether a name is one short word, such as "pose:bent" or "reprojection_px", which cannot instruct anybody."""
    return _WORD.fullmatch(text) is not None


def normalise_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags in stored form: trimmed, case-folded, unique, in alphabetical order."""
    return tuple(sorted({tag.strip().casefold() for tag in tags}))
