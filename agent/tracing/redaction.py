"""What must never be written down or sent along with a trace: keys, headers that carry them, pictures as base64.

Nothing of the kind passes through a critique's state on purpose. But a trace quotes what servers, providers' packages
and plug-ins say, and some quote the request they refuse. So every line goes through here before it goes anywhere, and
so does every reason for a missing score or measurement, which commands print: cleaned first and cut to length then, as
half a secret is told by no pattern.

Left out: secrets that stand in no environment variable and behind no header's name, which nobody can tell from text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

__all__ = ["first_line", "reason_of", "redactor", "told", "without_pictures", "writable"]

# within a line of JSON the n of an escaped line break looks like base64, and without it the line would be no JSON
_PICTURE = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]*|(?<!\\)[A-Za-z0-9+/]{100,}={0,2}")
_QUOTE = r"(?:\\*[\"'])?"  # JSON within JSON escapes it, once more at every level
_HEADER = re.compile(
    # the first word of an authorization is its scheme if it is too short for a secret
    rf"(?i)(\bauthorization{_QUOTE}\s*[:=]\s*{_QUOTE}(?:[\w-]{{1,7}}|negotiate)\s+"
    rf"|\b(?:bearer|authorization|x-(?:\w+-)?api-key){_QUOTE}\s*[:= ]\s*{_QUOTE}"
    rf"|api[-_]?key{_QUOTE}\s*[:=]\s*{_QUOTE}"
    r"|[?&]key=)[\w.~+/=-]{8,}"
)
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
SHORTEST_SECRET = 8  # a key named EMPTY, as local servers are given, is a word like any other
REASON_CHARS = 300


def without_pictures(text: str) -> str:
    """The text with every base64 picture (or anything as long) replaced by its absence."""
    return _PICTURE.sub("[base64]", text)


def redactor(environ: Mapping[str, str]) -> Callable[[str], str]:
    """What cuts pictures, authorising headers and the values of these variables that are named as secrets are."""
    values = {value.strip() for name, value in environ.items() if _SECRET_NAME.search(name)}
    secrets = sorted((value for value in values if len(value) >= SHORTEST_SECRET), key=len, reverse=True)

    def redacted(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "[key]")
        return _HEADER.sub(r"\1[key]", without_pictures(text))

    return redacted


def writable(text: str) -> str:
    """The text as UTF-8 can hold it: half of a surrogate pair, as a cut JSON escape leaves it, becomes "?"."""
    return text.encode("utf-8", "replace").decode()


def told(text: str) -> str:
    """A reason that may be printed and written down: cleaned, and at most `REASON_CHARS` long."""
    return writable(redactor(os.environ)(text))[:REASON_CHARS]


def reason_of(error: BaseException) -> str:
    """An error as a reason: its type and what it says."""
    return told(f"{type(error).__name__}: {error}")


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return told(next(iter(str(error).strip().splitlines()), type(error).__name__))
