"""Redaction of keys, authorization headers and base64 images from everything that is logged, printed or exported.

A critique's state holds no secrets by design. But a trace quotes error messages of servers, providers' packages and
plug-ins, and some of these quote the refused request. So each line of a trace is redacted before it is written, and
each reason for a missing score or measurement before it is stored or printed. Reasons are redacted first and cut to
length afterwards, because no pattern finds half of a secret.

The texts are untrusted, and Python's `re` cannot be interrupted: no pattern here takes more than linear time, and
a reason is cut before it is redacted, too.

Secrets are found in any case of their letters, because host names lose theirs, and behind JSON's escapes, which whoever
reads the JSON undoes.

Not covered: secrets that are neither in an environment variable nor behind a header's name, and those that a server
takes apart or encodes. They cannot be recognised.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "first_line", "reason_of", "redact", "redactor", "register_secret", "without_pictures", "without_secrets",
    "writable",
]  # fmt: skip

# Inside a JSON string the n of an escaped line break looks like base64; removing it would break the JSON.
_PICTURE = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=]*|(?<!\\)[A-Za-z0-9+/]{100,}={0,2}")
_QUOTE = r"(?:\\*[\"'])?"  # JSON inside JSON escapes it, once more at every level
_HEADER = re.compile(
    # The first word of an authorization is its scheme if it is too short for a secret. No run of white space is matched
    # by two neighbouring repetitions, which would take quadratic time.
    rf"(?i)(\bauthorization{_QUOTE}\s*[:=]\s*{_QUOTE}(?:[\w-]{{1,7}}|negotiate)\s+"
    rf"|\b(?:bearer|authorization|x-(?:\w+-)?api-key){_QUOTE}(?:\s*[:=]|\s)\s*{_QUOTE}"
    rf"|api[-_]?key{_QUOTE}\s*[:=]\s*{_QUOTE}"
    r"|[?&]key=)[\w.~+/=-]{8,}"
)
_ESCAPED = re.compile(
    r"(?<!\\)\\++(?:u00(2[0-13-9a-f]|[346][0-9a-f]|5[0-9abd-f]|7[0-9a-e])|/)", re.IGNORECASE
)
# name and password before the host of an address
_USER = re.compile(r"(?<=://)[^/?#\s@\"'\\]{1,256}@")
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_registered: set[str] = set()
SHORTEST_SECRET = 8  # shorter values, such as the key EMPTY of a local server, are ordinary words
REASON_CHARS = 300
MAX_ERROR_CHARS = (
    1_000_000  # of an error's message that is looked at; a quoted request with pictures is shorter
)


def without_pictures(text: str) -> str:
    """The text with "[base64]" in place of each base64 image, or other base64 of that length."""
    return _PICTURE.sub("[base64]", text)


def redactor(environ: Mapping[str, str]) -> Callable[[str], str]:
    """A function that removes images, values of authorization headers, and the values of these environment variables
    whose names end like a secret's."""
    named = {value.strip() for name, value in environ.items() if _SECRET_NAME.search(name)}

    def redacted(text: str) -> str:
        text = _USER.sub("[key]@", without_pictures(without_secrets(text, named | _registered)))
        return _HEADER.sub(r"\1[key]", text)

    return redacted


def register_secret(value: str) -> None:
    """Redact this value as well, from now on in this process: a variable that holds it may have any name."""
    _registered.add(value)


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """The text with "[key]" in place of the secrets, shorter ones left out."""
    patterns = [
        re.compile(re.escape(secret), re.IGNORECASE)
        for secret in sorted(secrets, key=len, reverse=True)  # one may be contained in another
        if len(secret) >= SHORTEST_SECRET
    ]
    text = _without(text, patterns)
    if patterns and "\\" in text and (plain := _unescaped(text)) != (cleaned := _without(plain, patterns)):
        return cleaned
    return text


def _without(text: str, patterns: Sequence[re.Pattern[str]]) -> str:
    for pattern in patterns:
        text = pattern.sub("[key]", text)
    return text


def _unescaped(text: str) -> str:
    """With the printable ASCII characters that JSON may escape, but for quotes and backslashes."""
    return _ESCAPED.sub(lambda found: "/" if found[1] is None else chr(int(found[1], 16)), text)


def writable(text: str) -> str:
    """The text with "?" in place of lone surrogates (a truncated JSON escape leaves one), which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


def redact(text: str) -> str:
    """The text redacted for this process's environment, encodable, and at most `REASON_CHARS` long."""
    if len(text) > MAX_ERROR_CHARS:
        text = text[: text.rfind(" ", 0, MAX_ERROR_CHARS) + 1]  # no secret is cut in half
    return writable(redactor(os.environ)(text))[:REASON_CHARS]


def reason_of(error: BaseException) -> str:
    """The type and the message of an error, redacted."""
    return redact(f"{type(error).__name__}: {error}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if the message is empty, redacted."""
    return redact(next(iter(str(error).strip().splitlines()), type(error).__name__))
