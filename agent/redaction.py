"""What must never be written down or sent along with a trace: keys, headers that carry them, pictures as base64.

Nothing of the kind passes through a critique's state on purpose. But a trace quotes what servers, providers' packages
and plug-ins say, and some quote the request they refuse. So every line goes through here before it goes anywhere, and
so does the reason for a missing score, which commands print.

Left out: secrets that stand in no environment variable and behind no header's name, which nobody can tell from text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

__all__ = ["redactor", "without_pictures"]

_PICTURE = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]*|[A-Za-z0-9+/]{100,}={0,2}")
_HEADER = re.compile(r"(?i)\b(bearer|x-api-key|authorization)(\\?[\"']?\s*[:= ]\s*\\?[\"']?)[\w.~+/=-]{8,}")
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
SHORTEST_SECRET = 8  # a key named EMPTY, as local servers are given, is a word like any other


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
        return _HEADER.sub(r"\1\2[key]", without_pictures(text))

    return redacted
