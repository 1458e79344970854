"""Requests to a server that refuses some of their fields: the question is asked again without what it names.

A refusal is an answer 400, 413 or 422 whose message names a field. Each change is tried once per question; a change
after which the server answered is made to all later requests of the run. A limit on the length of an answer is not
given up, because it limits costs: only the field's name is exchanged.

A message may name a schema, a format, and the field in which both are sent. So the schema loses its limits first, then
`json_schema` becomes `json_object`, and then the field is left out; the question contains the schema as text too.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agent.vlm.schemas import BOUNDS, without_bounds

__all__ = ["Change", "RefusedFields"]

Json = dict[str, Any]
_PROMPT_TOO_LONG = re.compile(r"context[ _](length|size|window)", re.IGNORECASE)
_LIMIT_TOO_LARGE = re.compile(r"too (large|long)|at most|exceed", re.IGNORECASE)
_OTHER_TOKEN_FIELD = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}


@dataclass(frozen=True)
class Change:
    """A change to requests; `make` returns None for a request that has nothing to change."""

    name: str
    sentence: str  # after "the server"
    is_named_in: Callable[[str], bool]
    make: Callable[[Json], Json | None]


class RefusedFields:
    """The changes that a server needs. Thread-safe. `optional`: the fields that can be left out."""

    def __init__(self, optional: Iterable[str]) -> None:
        self._possible = (*map(_omission, optional), *_TOKEN_CHANGES, *_SCHEMA_CHANGES)
        self._needed: tuple[Change, ...] = ()
        self._lock = threading.Lock()

    def adapt(self, request: Json) -> Json:
        """The request with all changes that the server is known to need."""
        for change in self._needed:
            request = change.make(request) or request
        return request

    def next_change(self, request: Json, message: str, tried: Sequence[Change]) -> Change | None:
        """A change of a field that the refusal names, which was not tried for this question; None if there is none, and
        if the refusal is about the length of the prompt."""
        if _PROMPT_TOO_LONG.search(message):
            return None
        candidates = (change for change in self._possible if change not in tried)
        return next((c for c in candidates if c.is_named_in(message) and c.make(request) is not None), None)

    def remember(self, changes: Sequence[Change]) -> list[Change]:
        """Make these changes to all later requests; returns those that are new. Of the changes of the schema, the last
        one includes the others."""
        superseded = [change for change in changes if change in _SCHEMA_CHANGES][:-1]
        changes = [change for change in changes if change not in superseded]
        with self._lock:
            new = [change for change in changes if change not in self._needed]
            self._needed += tuple(new)
        return new


def _named(*words: str) -> Callable[[str], bool]:
    """Whether a message has one of these words; an underscore belongs to a word."""
    return _matches(rf"\b({'|'.join(map(re.escape, words))})\b")


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda message: re.search(pattern, message, re.IGNORECASE) is not None


def _omission(field: str) -> Change:
    def make(request: Json) -> Json | None:
        return {name: value for name, value in request.items() if name != field} if field in request else None

    return Change(field, f"refuses {field}; it is asked without it", _named(field), make)


def _token_change(field: str) -> Change:
    other, names_field = _OTHER_TOKEN_FIELD[field], _named(field)

    def make(request: Json) -> Json | None:
        if field not in request:
            return None
        return {other if name == field else name: value for name, value in request.items()}

    return Change(
        field,
        f"refuses {field}; it is asked with {other}",
        lambda message: names_field(message) and not _LIMIT_TOO_LARGE.search(message),
        make,
    )


def _drop_bounds(request: Json) -> Json | None:
    form = request.get("response_format", {}).get("json_schema")
    if form is None or form["schema"] == (bare := without_bounds(form["schema"])):
        return None
    return {
        **request,
        "response_format": {"type": "json_schema", "json_schema": {**form, "schema": bare}},
    }


def _ask_for_object(request: Json) -> Json | None:
    if request.get("response_format", {}).get("type") != "json_schema":
        return None
    return {**request, "response_format": {"type": "json_object"}}


_SCHEMA_CHANGES = (
    Change(
        "bounds",
        "refuses limits in the schema; it is asked without them",
        _named(*BOUNDS, "schema", "grammar"),
        _drop_bounds,
    ),
    Change(
        "json_schema",
        "refuses the format json_schema; it is asked for json_object",
        _matches(r"\bjson_(schema|object)\b|\bresponse_format\W{1,3}type\b"),
        _ask_for_object,
    ),
    Change(
        "response_format",
        "refuses response_format; it is asked without it",
        _named("response_format", "json_schema", "json_object", "schema", "grammar"),
        _omission("response_format").make,
    ),
)
_TOKEN_CHANGES = tuple(map(_token_change, _OTHER_TOKEN_FIELD))
