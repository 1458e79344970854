"""What the agent asks of a vision-language model, and what it gets back.

A question is a list of parts (text, pictures, structured data) and a JSON schema whose `title` names the
task; the answer is raw JSON text. Parsing, checking and the one repair are the agent's work
(`agent/scoring/ask.py`), so that a backend stays a thin adapter. A `DataPart` is structured evidence: a text
model reads its `.text`, the embedded critic its `.data`.

Left out: streaming and tool calls, which judging a group in one answer has no use for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

from agent.tracing.redaction import writable

__all__ = [
    "Capabilities",
    "DataPart",
    "ImagePart",
    "KeepsAnswers",
    "MalformedReply",
    "Part",
    "Reply",
    "Task",
    "TextPart",
    "Unanswerable",
    "VLMBackend",
    "checked_reply",
]

Task = Literal["tag", "score", "reflect", "revise", "mine"]


@dataclass(frozen=True)
class TextPart:
    """Instructions, or a question."""

    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class ImagePart:
    """One picture: the photograph, or a labelled panel of one hypothesis."""

    png: bytes
    caption: str = ""

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.png).hexdigest()


@dataclass(frozen=True)
class DataPart:
    """Structured evidence under a name, such as "evidence" or "rules"; `data` is JSON, and `told` says it shorter."""

    name: str
    data: Any
    told: str | None = None

    @cached_property
    def text(self) -> str:
        """How a model that reads text sees it."""
        return f"<{self.name}>\n{self._json if self.told is None else self.told}\n</{self.name}>"

    @cached_property
    def sha256(self) -> str:
        """Of all that either kind of reader is given."""
        return hashlib.sha256((self.text + ("" if self.told is None else self._json)).encode()).hexdigest()

    @cached_property
    def _json(self) -> str:
        return json.dumps(self.data, ensure_ascii=False)


Part = TextPart | ImagePart | DataPart


@dataclass(frozen=True)
class Capabilities:
    """What a backend can take in; the agent renders no panels for one that sees no images."""

    images: bool = False
    max_images: int | None = None  # in one request; None: no limit
    concurrency: int = 1  # requests it takes at once; above 1, `generate` is called from several threads
    sends_to: str = ""  # the host that questions, and so photographs, are sent to; empty: this machine


@dataclass(frozen=True)
class Reply:
    """One raw answer and its cost."""

    text: str
    ms: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    retries: int = 0  # requests that failed before this answer came
    cached: bool = False  # answered before: nothing was asked now


class MalformedReply(ValueError):
    """An answer that does not fit the schema it was asked for."""


class Unanswerable(ValueError):
    """A question that this backend cannot answer, however often it is asked: the fault is the question's."""


def checked_reply(reply: object) -> Reply:
    """What a backend returned, as a Reply that can be written down. Raises MalformedReply for anything else."""
    said = reply.text if isinstance(reply, Reply) else reply
    if not isinstance(reply, Reply) or not isinstance(said, str):
        raise MalformedReply(f"the backend gave {type(said).__name__} in place of a Reply with a text")
    try:
        ms = float(reply.ms or 0)
        tokens_in, tokens_out, retries = (
            int(n or 0) for n in (reply.tokens_in, reply.tokens_out, reply.retries)
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedReply("the Reply's ms, tokens or retries are no numbers") from error
    return Reply(writable(said), ms, tokens_in, tokens_out, retries, bool(reply.cached))


@runtime_checkable
class VLMBackend(Protocol):
    """A model that judges; every implementation passes tests/contracts/test_vlm_backends.py.

    `name` and `revision` together name the weights and every setting that shapes an answer: they go into traces
    and cache keys, and whatever must not share answers differs in one of them. `generate` may raise any
    exception: the agent records it as the reason for a missing answer, and never makes up a score. A
    MalformedReply is worth the one repair, any other is not. After an Unanswerable a group without scores is final;
    after any other exception it is asked about again by whoever keeps scores for good (`agent.vlm.wrappers.availability`).
    """

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply: ...


@runtime_checkable
class KeepsAnswers(Protocol):
    """A backend that wants to know which of its answers held: `ask` hands it the checked one.

    The question is the original one even where the answer is that to a repair.
    """

    def keep(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int, reply: Reply) -> None: ...
