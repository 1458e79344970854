"""Protocol of a VLM backend: the parts of a question, the reply, and the backend's capabilities.

A question is a list of parts (text, pictures, structured data) and a JSON schema whose `title` names the task; the
answer is raw JSON text. The agent parses and checks it and asks for one repair (`agent/scoring/ask.py`), so a backend
is a thin adapter. A `DataPart` is structured evidence: a text model reads its `.text`, the embedded critic its `.data`.

In the agentic mode a model calls for its evidence before it scores (task "act"). The calls that it may make are in the
schema, and those that it made are `CallPart`s of the question, so every backend that reads text can take part: it
answers with a JSON action (`agent/vlm/actions.py`). A backend may send them in its provider's own form instead.

Left out: streaming.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

from agent.vlm.messages import Finish, finish_of, split_thinking
from common.redaction import writable
from common.storage.fingerprint import digest

__all__ = [
    "CallPart",
    "CallSpec",
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

Task = Literal["tag", "score", "reflect", "revise", "mine", "act"]
ToolCalls = Literal["none", "json", "native"]
SHA256_DIGITS = 64
Json = dict[str, Any]
_TAG = re.compile(r"<(?=[/!|?a-zA-Z])")  # the start of a tag; a comparison has a space or a digit there


@dataclass(frozen=True)
class TextPart:
    """Instructions or a question."""

    text: str

    @property
    def sha256(self) -> str:
        return digest(self.text, length=SHA256_DIGITS)


@dataclass(frozen=True)
class ImagePart:
    """One picture: the photograph, or a labelled panel of one hypothesis."""

    png: bytes
    caption: str = ""

    @cached_property
    def sha256(self) -> str:
        return digest(self.png, length=SHA256_DIGITS)


@dataclass(frozen=True)
class DataPart:
    """Named JSON data, such as "evidence" or "rules". `formatted` is a shorter form for models that read text."""

    name: str
    data: Any
    formatted: str | None = None

    @cached_property
    def text(self) -> str:
        """The part as text: the formatted data, or the JSON if there is none.

        No sentence of a memory, a plug-in or a model can end the part or begin another one.
        """
        content = _TAG.sub("&lt;", self._json if self.formatted is None else self.formatted)
        return f"<{self.name}>\n{content}\n</{self.name}>"

    @cached_property
    def sha256(self) -> str:
        """Hash of the text and the data."""
        return digest(self.text, "" if self.formatted is None else self._json, length=SHA256_DIGITS)

    @cached_property
    def _json(self) -> str:
        return json.dumps(self.data, ensure_ascii=False)


@dataclass(frozen=True)
class CallPart:
    """A call that the model made earlier in this question, and its result. Calls of one answer have the same step.

    arguments: the text of any JSON value.
    """

    step: int
    name: str
    arguments: str
    result: str

    @property
    def text(self) -> str:
        call = f'{{"name": {json.dumps(self.name)}, "arguments": {self.arguments}}}'
        return f"<call>\n{call}\n</call>\n<result>\n{self.result}\n</result>"

    @cached_property
    def sha256(self) -> str:
        return digest(str(self.step), self.text, length=SHA256_DIGITS)


Part = TextPart | ImagePart | DataPart | CallPart


@dataclass(frozen=True)
class CallSpec:
    """A call that a model may make: its name, what it is for, and the JSON schema of its arguments."""

    name: str
    description: str
    schema: Json


@dataclass(frozen=True)
class Capabilities:
    """What a backend accepts. The agent renders no panels for a backend without images."""

    images: bool = False
    max_images: int | None = None  # per request; None: no limit
    concurrency: int = 1  # concurrent requests; above 1, `generate` is called from several threads
    sends_to: str = ""  # the host that receives the questions and photographs; empty: this machine
    length_setting: str = (
        "max_tokens"  # the setting that limits the length of an answer, named if one is cut off
    )
    # in the agentic mode: "json" answers with actions as JSON, "native" makes calls in the provider's own form,
    # "none" cannot choose its evidence
    tool_calls: ToolCalls = "json"


@dataclass(frozen=True)
class Reply:
    """One raw answer, with its time and token counts."""

    text: str
    ms: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    retries: int = 0  # requests that failed before this answer
    cached: bool = False  # taken from a cache: no request was made
    thinking: str = ""  # what the model wrote before its answer: kept for the trace, never parsed
    finish: Finish = ""  # why the answer ended, if not by itself
    warning: str = ""  # what is wrong with this answer although it came, such as a prompt that the server cut


class MalformedReply(ValueError):
    """An answer that does not fit the requested schema."""


class Unanswerable(ValueError):
    """A question that this backend can never answer, because of the question itself (too long, refused, ...)."""


def checked_reply(reply: object) -> Reply:
    """A copy of a backend's reply with valid types, text that UTF-8 can encode, and thinking in tags moved out of the
    text. Raises MalformedReply if there is none."""
    text = reply.text if isinstance(reply, Reply) else reply
    if not isinstance(reply, Reply) or not isinstance(text, str):
        raise MalformedReply(f"the backend returned {type(text).__name__} instead of a Reply with a text")
    try:
        ms = float(reply.ms or 0)
        tokens_in, tokens_out, retries = (
            int(n or 0) for n in (reply.tokens_in, reply.tokens_out, reply.retries)
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedReply("the Reply's ms, tokens or retries are not numbers") from error
    answer, tagged = split_thinking(writable(text))
    thinking = "\n".join(part for part in (writable(str(reply.thinking or "")), tagged) if part)
    finish, warning = finish_of(reply.finish), writable(str(reply.warning or ""))
    return Reply(answer, ms, tokens_in, tokens_out, retries, bool(reply.cached), thinking, finish, warning)


@runtime_checkable
class VLMBackend(Protocol):
    """A model that answers the agent's questions; every implementation passes tests/contracts/test_vlm_backends.py.

    `name` and `revision` together identify the weights and every setting that affects an answer. They are written to
    traces and cache keys, so two backends whose answers may differ must differ in one of them. `generate` may raise any
    exception: the agent records it as the reason for the missing answer and never invents a score. A MalformedReply
    is repaired once, other exceptions are not. After an Unanswerable, missing scores are final; after any other
    exception, callers that store scores ask again later (`BackendUnavailable`).
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
    """A backend that stores valid answers: `ask` calls `keep` with each reply that passed its checks.

    `parts` is the original question, even if the reply answers a repair request.
    """

    def keep(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int, reply: Reply) -> None: ...
