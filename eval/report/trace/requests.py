"""The requests of a critique to its backend, from the records of a trace (`agent.scoring.ask` writes them)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from agent.types import QuestionCounts
from eval.report.trace.tables import StepTable

__all__ = ["Request", "question_counts", "requests_of", "requests_table", "shortened", "summary"]

Json = Mapping[str, Any]
MAX_CHARS = 20_000  # of a reply or of thinking


@dataclass(frozen=True)
class Request:
    """One request and how it ended. A repair repeats a question whose reply was malformed, and adds what was wrong."""

    task: str
    backend: str
    prompt: str
    parts: tuple[str, ...]  # hashes
    is_repair: bool
    result: str
    has_reply: bool  # that fits
    is_error: bool  # there was no reply at all
    ms: float | None
    tokens_in: int
    tokens_out: int
    retries: int | None
    text: str
    thinking: str
    finish: str

    @property
    def name(self) -> str:
        return f"{self.task} (repair)" if self.is_repair else self.task

    @property
    def tokens(self) -> str:
        return _tokens(self.tokens_in, self.tokens_out)


def requests_of(record: Json) -> list[Request]:
    """The requests of a node, as far as they are records of requests."""
    found: list[Request] = []
    for call in _dicts(record["outputs"].get("replies")):
        # Another version, or a hand, may have written anything.
        try:
            found.append(_request(call, found[-1] if found else None))
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return found


def _request(call: Json, before: Request | None) -> Request:
    parts = tuple(map(str, call["parts"]))
    is_repair = before is not None and _repairs(str(call["task"]), parts, before)
    tokens_in, tokens_out = call.get("tokens", (0, 0))
    return Request(
        task=str(call["task"]),
        backend=str(call["backend"]),
        prompt=str(call["prompt"]),
        parts=parts,
        is_repair=is_repair,
        result=_result(call, is_repair),
        has_reply="error" not in call and "malformed" not in call,
        is_error="error" in call,
        ms=float(call["ms"]) if "ms" in call else None,
        tokens_in=int(tokens_in),
        tokens_out=int(tokens_out),
        retries=int(call["retries"]) if "retries" in call else None,
        text=str(call.get("text", "")),
        thinking=str(call.get("thinking", "")),
        finish=str(call.get("finish", "")),
    )


def _repairs(task: str, parts: tuple[str, ...], before: Request) -> bool:
    """The parts alone do not tell: in the agentic mode a question grows by one part after every valid call."""
    was_malformed = not (before.has_reply or before.is_error)
    return was_malformed and before.task == task and before.parts == parts[:-1]


def _result(call: Json, is_repair: bool) -> str:
    if "error" in call:
        return str(call["error"])
    if "malformed" in call:
        return f"{'repaired and still malformed' if is_repair else 'malformed'}: {call['malformed']}"
    result = "cached reply" if call.get("cached") else "reply"
    result = f"{result} after a repair" if is_repair else result
    return f"{result}, {call['warning']}" if "warning" in call else result


def requests_table(requests: Sequence[Request]) -> StepTable:
    """One row per request."""
    rows = [
        (
            request.name,
            request.backend,
            request.prompt,
            "-" if request.ms is None else f"{request.ms:,.0f}",
            request.tokens,
            "-" if request.retries is None else str(request.retries),
            request.result,
        )
        for request in requests
    ]
    return StepTable("", ("request", "backend", "prompt", "ms", "tokens", "retries", "result"), rows)


def summary(records: Sequence[Json]) -> str:
    """One line about all requests of a critique."""
    requests = [request for record in records for request in requests_of(record)]
    tokens_in = sum(request.tokens_in for request in requests)
    tokens_out = sum(request.tokens_out for request in requests)
    retries = sum(request.retries or 0 for request in requests)
    failed = sum(request.is_error for request in requests)
    counts = question_counts(records)
    parts = [
        f"{sum(record['ms'] for record in records):,.0f} ms",
        f"{len(requests)} request{'s' * (len(requests) != 1)}",
        *([_tokens(tokens_in, tokens_out).replace(" in", " tokens in")] if tokens_in or tokens_out else []),
        *([f"{retries} retries"] if retries else []),
        *([f"{failed} failed"] if failed else []),
        *([f"{counts.answered} of {counts.asked} questions answered"] if counts.lost else []),
    ]
    return "; ".join(parts)


def shortened(text: str) -> str:
    """At most MAX_CHARS of a reply; JSON is indented."""
    with suppress(ValueError, RecursionError):
        text = json.dumps(json.loads(text), ensure_ascii=False, indent=1)
    if len(text) <= MAX_CHARS:
        return text
    return f"{text[:MAX_CHARS]}\n... {len(text) - MAX_CHARS:,} more characters are in trace.jsonl"


def _tokens(tokens_in: int, tokens_out: int) -> str:
    return f"{tokens_in:,} in, {tokens_out:,} out" if tokens_in or tokens_out else "-"


def question_counts(records: Sequence[Json]) -> QuestionCounts:
    """The questions of a critique: asked, answered, repaired. What else stands there, edited by hand, is left out."""
    found = [record["outputs"].get("questions") for record in records]
    return sum((QuestionCounts.from_json(item) for item in found if _is_counts(item)), QuestionCounts())


def _is_counts(item: Any) -> bool:
    names = QuestionCounts().to_json().keys()
    return (
        isinstance(item, dict)
        and {"asked", "answered", "repaired"} <= item.keys() <= names
        and all(isinstance(value, int) for value in item.values())
    )


def _dicts(items: Any) -> list[Json]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
