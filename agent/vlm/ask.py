"""Ask a backend, check the answer, let it repair once, and otherwise come back with a reason instead of a
number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from agent.vlm.protocol import MalformedReply, Part, Task, TextPart, VLMBackend

__all__ = ["Answer", "ask"]

M = TypeVar("M", bound=BaseModel)
QUOTED_CHARS = 2000  # of a bad reply, shown back to the model


@dataclass(frozen=True)
class Answer(Generic[M]):
    """A checked answer, or None with the reason; `replies` is what was really said, for the trace."""

    value: M | None
    reason: str
    replies: tuple[dict[str, Any], ...]


def ask(backend: VLMBackend, task: Task, parts: Sequence[Part], model: type[M], seed: int) -> Answer[M]:
    """One question, and one repair that quotes what was wrong. Never raises on what a backend does."""
    schema = {**model.model_json_schema(), "title": task}
    replies: list[dict[str, Any]] = []
    attempt = list(parts)
    reason = ""
    for _ in range(2):
        # A backend is somebody else's server or plug-in: whatever it raises becomes a reason.
        try:
            reply = backend.generate(attempt, schema, seed)
        except Exception as error:  # noqa: BLE001
            return Answer(
                None, f"{backend.name} failed: {type(error).__name__}: {error}"[:300], tuple(replies)
            )
        replies.append(_record(task, seed, attempt, reply))
        try:
            return Answer(_parse(reply.text, model), "", tuple(replies))
        except MalformedReply as error:
            reason = str(error)
            attempt = [*parts, TextPart(_repair_request(reply.text, reason))]
    return Answer(None, f"malformed after one repair: {reason}"[:300], tuple(replies))


def _parse(text: str, model: type[M]) -> M:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)[:6]
        where = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'reply'}: {item['msg']}" for item in details)
        raise MalformedReply(where) from error


def _repair_request(text: str, reason: str) -> str:
    return (
        f"Your previous reply did not fit the schema ({reason}). It was:\n{text[:QUOTED_CHARS]}\n"
        "Answer again with JSON that fits the schema, and nothing else."
    )


def _record(task: Task, seed: int, parts: Sequence[Part], reply: Any) -> dict[str, Any]:
    return {
        "task": task,
        "seed": seed,
        "parts": [part.sha256 for part in parts],
        "text": reply.text,
        "ms": round(reply.ms, 3),
        "tokens": [reply.tokens_in, reply.tokens_out],
    }
