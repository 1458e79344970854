"""Ask a backend, check the answer, let it repair once, and otherwise come back with a reason instead of a
number.

A model that is not held to the schema talks about its answer: JSON is found inside prose and code fences. Where
several objects fit, the last one counts (a model that thinks aloud ends with its answer); an object that gives
a label twice fits never.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from agent.prompts import load_prompt
from agent.tracing.redaction import reason_of, told
from agent.vlm.protocol import (
    KeepsAnswers,
    MalformedReply,
    Part,
    Reply,
    Task,
    TextPart,
    VLMBackend,
    checked_reply,
)

__all__ = ["Answer", "ask", "parse"]

M = TypeVar("M", bound=BaseModel)
QUOTED_CHARS = 2000  # of a bad reply, shown back to the model
MAX_BRACES = 200  # opening braces tried in one reply: prose full of them is no answer


@dataclass(frozen=True)
class Answer(Generic[M]):
    """A checked answer, or None with the reason; `replies` is what was really said, for the trace."""

    value: M | None
    reason: str
    replies: tuple[dict[str, Any], ...]


def ask(backend: VLMBackend, task: Task, parts: Sequence[Part], model: type[M], seed: int) -> Answer[M]:
    """One question, and one repair that quotes what was wrong. Never raises on what a backend does."""
    schema = {**_schema(model), "title": task}
    replies: list[dict[str, Any]] = []
    attempt = list(parts)
    reason = ""
    for _ in range(2):
        said = ""
        asked = _question(backend, task, seed, attempt)
        try:
            reply = _generate(backend, attempt, schema, seed)
            said = reply.text
            replies.append({**asked, **_said(reply)})
            value = parse(said, model)
        except MalformedReply as error:
            reason = told(str(error))
            attempt = [*parts, TextPart(_repair_request(said, reason))]
            continue
        except _Failed as error:
            replies.append({**asked, "error": str(error)})
            return Answer(None, str(error), tuple(replies))
        if warning := _keep(backend, parts, schema, seed, reply):
            replies[-1]["warning"] = warning
        return Answer(value, "", tuple(replies))
    return Answer(None, f"malformed after one repair: {reason}"[:300], tuple(replies))


@lru_cache(maxsize=256)
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Kept, because making it takes longer than all else about a question."""
    return model.model_json_schema()


class _Failed(Exception):
    """A backend raised; the message is the reason."""


def _generate(backend: VLMBackend, parts: Sequence[Part], schema: dict[str, Any], seed: int) -> Reply:
    # A backend is somebody else's server or plug-in: whatever it raises becomes a reason.
    try:
        return checked_reply(backend.generate(parts, schema, seed))
    except MalformedReply:
        raise
    except Exception as error:
        raise _Failed(told(f"{backend.name} failed: {reason_of(error)}")) from error


def _keep(backend: VLMBackend, parts: Sequence[Part], schema: dict[str, Any], seed: int, reply: Reply) -> str:
    """Hands a checked answer to who keeps answers; the reason if it could not be kept, which costs the next run a
    question and this one nothing.
    """
    if not isinstance(backend, KeepsAnswers) or reply.cached:
        return ""
    # A full disk, a locked file, or whatever a plug-in's own `keep` may raise.
    try:
        backend.keep(parts, schema, seed, reply)
    except Exception as error:  # noqa: BLE001
        return told(f"not kept: {reason_of(error)}")
    return ""


def parse(text: str, model: type[M]) -> M:
    """The checked answer in a reply. Raises MalformedReply with what was wrong with it."""
    reason = "there is no complete JSON object in the reply"
    for number, candidate in enumerate(reversed(list(_objects(text)))):
        try:
            return model.model_validate_json(candidate)
        except ValidationError as error:
            reason = reason if number else _what_is_wrong(error)
    raise MalformedReply(reason)


def _objects(text: str) -> Iterator[str]:
    """The outermost JSON objects in a text, in order; an object with a repeated key is none."""
    start = text.find("{")
    for _ in range(MAX_BRACES):
        if start < 0:
            return
        try:
            _, end = _DECODER.raw_decode(text, start)
            yield text[start:end]
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands there twice")
    return dict(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_no_key_twice)


def _what_is_wrong(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_input=False)[:6]
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'reply'}: {item['msg']}" for item in details)


def _repair_request(text: str, reason: str) -> str:
    return (
        f"Your previous reply did not fit the schema ({reason}). It was:\n{text[:QUOTED_CHARS]}\n"
        "Answer again with JSON that fits the schema, and nothing else."
    )


def _question(backend: VLMBackend, task: Task, seed: int, parts: Sequence[Part]) -> dict[str, Any]:
    """What the trace says of a question: who was asked, when, and every part by its hash."""
    return {
        "task": task,
        "backend": f"{backend.name} {backend.revision}",
        "prompt": load_prompt(task).version,
        "seed": seed,
        "parts": [part.sha256 for part in parts],
        "started": round(time.time(), 3),
    }


def _said(reply: Reply) -> dict[str, Any]:
    return {
        "text": reply.text,
        "ms": round(reply.ms, 3),
        "tokens": [reply.tokens_in, reply.tokens_out],
        "retries": reply.retries,
        "cached": reply.cached,
    }
