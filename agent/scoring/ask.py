"""Ask a backend one question: validate the reply, repair it once, and otherwise return the failure and its reason.

Every request leaves a record for the trace that says how it ended: `error` if there was no reply, `malformed` if the
reply did not fit, neither if it did. Thinking is kept there and never parsed. A reply that was cut off counts if its
answer ended before; otherwise the reason names the limit. A refusal is not repaired.

A model that is not constrained to the schema surrounds its answer with text: JSON is searched for in prose and code
fences. If several objects fit the schema, the last one counts, because a model that reasons first ends with its answer.
An object with a repeated key is never accepted.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from agent.events import AnswerReceived, Emit, QuestionSent, ignore_event
from agent.prompts import load_prompt
from agent.scoring.tally import add_question
from agent.tracing.parts import open_store
from agent.types import QuestionCounts, QuestionFailure
from agent.vlm.messages import Finish
from agent.vlm.protocol import (
    ImagePart,
    KeepsAnswers,
    MalformedReply,
    Part,
    Reply,
    Task,
    TextPart,
    Unanswerable,
    VLMBackend,
    checked_reply,
)
from common.redaction import reason_of, redact

__all__ = ["Answer", "ask", "keep_parts", "parse"]

Json = dict[str, Any]
M = TypeVar("M", bound=BaseModel)
QUOTED_CHARS = 2000  # of a malformed reply, quoted in the repair request
MAX_BRACES = 200  # opening braces tried per reply: a text with more is not an answer


@dataclass(frozen=True)
class Answer(Generic[M]):
    """A validated answer, or None and the failure; `replies` are the trace's records of the question and its repair."""

    value: M | None
    replies: tuple[Json, ...]
    failure: QuestionFailure | None = None

    @property
    def reason(self) -> str:
        """Why there is no answer; empty if there is one."""
        return self.failure.reason if self.failure else ""

    @property
    def counts(self) -> QuestionCounts:
        answered = int(self.value is not None)
        tokens = [record.get("tokens", (0, 0)) for record in self.replies]
        return QuestionCounts(
            asked=1,
            answered=answered,
            repaired=answered * (len(self.replies) - 1),
            tokens_in=sum(read for read, _ in tokens),
            tokens_out=sum(written for _, written in tokens),
            reply_us=sum(round(1e3 * record.get("ms", 0.0)) for record in self.replies),
        )

    def to_update(self) -> Json:
        """What a node of the graph writes to the state."""
        failures = [dict(vars(self.failure))] if self.failure else []
        return {"replies": list(self.replies), "failures": failures, "questions": self.counts.to_json()}


@dataclass(frozen=True)
class _Attempt(Generic[M]):
    """One request: its record, and a value, a failure, or what is wrong with the reply."""

    record: Json
    reply: Reply
    value: M | None = None
    failure: QuestionFailure | None = None
    malformed: str = ""

    def event(self, task: Task) -> AnswerReceived:
        problem = self.failure.reason if self.failure else self.malformed
        return AnswerReceived(task, self.reply.ms, self.reply.tokens_in, self.reply.tokens_out, problem)


def ask(
    backend: VLMBackend,
    task: Task,
    parts: Sequence[Part],
    model: type[M],
    seed: int,
    emit: Emit = ignore_event,
) -> Answer[M]:
    """Ask one question, and once more with the error quoted if the reply is malformed. An exception of the backend
    becomes a failure. `emit` is told when a request begins and ends. Raises OSError if the trace keeps the parts of
    questions, and cannot."""
    answer = _ask(backend, task, parts, model, seed, emit)
    add_question(backend.name, answer.counts, answer.failure)
    return answer


def _ask(
    backend: VLMBackend, task: Task, parts: Sequence[Part], model: type[M], seed: int, emit: Emit
) -> Answer[M]:
    schema = {**_schema(model), "title": task}
    records: list[Json] = []
    question, reason = list(parts), ""
    for _ in range(2):
        keep_parts(question)
        pictures = sum(isinstance(part, ImagePart) for part in question)
        emit(QuestionSent(task, backend.name, pictures))
        attempt = _attempt(backend, task, question, schema, model, seed)
        emit(attempt.event(task))
        records.append(attempt.record)
        if attempt.value is not None and (warning := _keep(backend, parts, schema, seed, attempt.reply)):
            attempt.record["warning"] = "; ".join(filter(None, (attempt.reply.warning, warning)))
        if attempt.value is not None or attempt.failure:
            return Answer(attempt.value, tuple(records), attempt.failure)
        reason = attempt.malformed
        question = [*parts, TextPart(_repair_request(attempt.reply.text, reason))]
    failure = QuestionFailure("malformed", f"malformed after one repair: {reason}"[:300], task)
    return Answer(None, tuple(records), failure)


def _attempt(
    backend: VLMBackend, task: Task, parts: Sequence[Part], schema: Json, model: type[M], seed: int
) -> _Attempt[M]:
    record, reply = _question_record(backend, task, seed, parts), Reply("")
    try:
        answer = _generate(backend, parts, schema, seed)
        if isinstance(answer, QuestionFailure):
            return _Attempt({**record, "error": answer.reason}, reply, failure=answer)
        reply = answer
        record |= _reply_record(reply)
        return _Attempt(record, reply, parse(reply.text, model, is_cut=reply.finish == "length"))
    except MalformedReply as error:
        reason = redact(_why_malformed(reply, backend.capabilities.length_setting) or str(error))
    if reply.finish in _WITHHELD:
        failure = QuestionFailure(
            "unanswerable", redact(f"{_WITHHELD[reply.finish]}: {reply.text}".rstrip(": ")), task
        )
        return _Attempt({**record, "error": failure.reason}, reply, failure=failure)
    return _Attempt({**record, "malformed": reason}, reply, malformed=reason)


_WITHHELD: dict[Finish, str] = {
    "refusal": "the model refused to answer",
    "content_filter": "the content filter of the server stopped the answer",
}


def _why_malformed(reply: Reply, length_setting: str) -> str:
    """What the way in which a reply ended says about it; empty if its text has to say it."""
    if reply.finish == "length":
        limit = f"{reply.tokens_out:,} tokens" if reply.tokens_out else "the limit of tokens"
        while_thinking = ", all of them thinking" if reply.thinking and not reply.text.strip() else ""
        return f"cut off at {limit}{while_thinking}; raise {length_setting}"
    if reply.thinking and not reply.text.strip():
        return "the reply is thinking without an answer"
    return ""


@lru_cache(maxsize=256)
def _schema(model: type[BaseModel]) -> Json:
    """Cached, because generating it takes longer than the rest of a question."""
    return model.model_json_schema()


def _generate(backend: VLMBackend, parts: Sequence[Part], schema: Json, seed: int) -> Reply | QuestionFailure:
    """Raises MalformedReply."""
    # A backend may be a server or a plug-in: any other exception becomes the reason.
    try:
        return checked_reply(backend.generate(parts, schema, seed))
    except MalformedReply:
        raise
    except Exception as error:  # noqa: BLE001
        kind = "unanswerable" if isinstance(error, Unanswerable) else "unavailable"
        return QuestionFailure(kind, redact(f"{backend.name} failed: {reason_of(error)}"), schema["title"])


def _keep(backend: VLMBackend, parts: Sequence[Part], schema: Json, seed: int, reply: Reply) -> str:
    """Pass a validated reply to a backend that stores replies. Returns the error if that fails; the answer stays valid,
    and a later run has to ask again."""
    if not isinstance(backend, KeepsAnswers) or reply.cached:
        return ""
    # A full disk, a locked file, or anything that a plug-in's `keep` raises.
    try:
        backend.keep(parts, schema, seed, reply)
    except Exception as error:  # noqa: BLE001
        return redact(f"not kept: {reason_of(error)}")
    return ""


def parse(text: str, model: type[M], is_cut: bool = False) -> M:
    """The validated answer in a reply. Raises MalformedReply with the validation error.

    is_cut: the reply was cut off, so an object after other words may be a draft; only one that begins the reply counts.
    """
    reason = "there is no complete JSON object in the reply"
    objects = list(_json_objects(text))
    if is_cut and not (objects and _CODE_FENCE.sub("", text).startswith(objects[0])):
        raise MalformedReply(reason)
    for number, candidate in enumerate(objects[:1] if is_cut else reversed(objects)):
        try:
            return model.model_validate_json(candidate)
        except ValidationError as error:
            reason = reason if number else _validation_message(error)
    raise MalformedReply(reason)


_CODE_FENCE = re.compile(r"^\s*(?:```\w*\s*)?")


def _json_objects(text: str) -> Iterator[str]:
    """The outermost JSON objects in a text, in order, except objects with a repeated key."""
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


def _reject_repeated_keys(pairs: list[tuple[str, Any]]) -> Json:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is repeated")
    return dict(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_reject_repeated_keys)


def _validation_message(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_input=False)[:6]
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'reply'}: {item['msg']}" for item in details)


def _repair_request(text: str, reason: str) -> str:
    return (
        f"Your previous reply did not fit the schema ({reason}). It was:\n{text[:QUOTED_CHARS]}\n"
        "Answer again with JSON that fits the schema, and nothing else."
    )


def keep_parts(parts: Sequence[Part]) -> None:
    """Beside the trace, if it keeps them. Raises OSError if that is impossible."""
    if (store := open_store()) is not None:
        pictures = {part.sha256: (part.png, part.caption) for part in parts if isinstance(part, ImagePart)}
        texts = {part.sha256: part.text for part in parts if not isinstance(part, ImagePart)}
        store.keep(texts, pictures)


def _question_record(backend: VLMBackend, task: Task, seed: int, parts: Sequence[Part]) -> Json:
    """A question in the trace: the backend, the start time, and the hash of each part."""
    return {
        "task": task,
        "backend": f"{backend.name} {backend.revision}",
        "prompt": load_prompt(task).version,
        "seed": seed,
        "parts": [part.sha256 for part in parts],
        "started": round(time.time(), 3),
    }


def _reply_record(reply: Reply) -> Json:
    return {
        "text": reply.text,
        "ms": round(reply.ms, 3),
        "tokens": [reply.tokens_in, reply.tokens_out],
        "retries": reply.retries,
        "cached": reply.cached,
        **({"thinking": reply.thinking} if reply.thinking else {}),
        **({"finish": reply.finish} if reply.finish else {}),
        **({"warning": redact(reply.warning)} if reply.warning else {}),
    }
