"""Backend for servers with OpenAI's chat completions API: vLLM, SGLang, Ollama, llama.cpp, transformers, OpenAI itself.

    openai:NAME@http://host:port/v1     NAME as the server lists it; without @URL: OPENAI_BASE_URL, else api.openai.com

The key is read from OPENAI_API_KEY only. It is sent to the given server, as OpenAI's own client does, and nowhere else:
it is removed from every answer and error message of the server, and so are the values of given headers.

Pictures are decoded and encoded again as JPEG without EXIF or other metadata, with sides of at most `image_side_px`.
The schema is sent as `response_format: json_schema`, and again as text for servers that ignore that field.

Servers differ (`agent/vlm/servers/`). Before the first question the server is asked what it is, unless a setting says
so. If it refuses a field, the question is asked again without it, and so are all later ones. The revision covers the
settings; what the server is and refuses belongs to the server, whose address is in the name.

In the agentic mode the model's calls are sent in OpenAI's form (`agent/vlm/servers/tool_calls.py`). A server that
refuses them gets the question again as one for JSON, and so all later ones.

Left out: the Responses API, streaming, several choices, and the `detail` of a picture, which only OpenAI reads.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from agent.vlm.actions import is_action
from agent.vlm.hosts import destination, is_this_machine
from agent.vlm.http import QUESTION_AT_FAULT, JsonClient, ServerError
from agent.vlm.messages import error_message, finish_of, read_message
from agent.vlm.protocol import Capabilities, MalformedReply, Part, Reply, Unanswerable
from agent.vlm.servers.chat_request import JPEG_QUALITY, chat_request, text_chars
from agent.vlm.servers.cut_prompts import prompt_cut
from agent.vlm.servers.profiles import PROFILES, ServerProfile, find_profile
from agent.vlm.servers.refusals import Change, RefusedFields
from agent.vlm.servers.settings import OpenAISettings, headers_from_environment
from agent.vlm.servers.tool_calls import action_text
from agent.vlm.settings import read_settings
from agent.vlm.wrappers.budget import Budget

__all__ = ["OpenAIBackend", "from_argument"]

DEFAULT_URL = "https://api.openai.com/v1"
REQUEST_VERSION = "3"  # increase when the request for the same question changes
OPTIONAL_FIELDS = (
    "seed",
    "temperature",
)  # left out for a server that refuses them, as are all fields of extra_body
_REFUSES_TOOLS = re.compile(r"\btools?\b|tool[_-]c(hoice|all)", re.IGNORECASE)
Json = dict[str, Any]


class OpenAIBackend:
    """One model on one server. Thread-safe. `budget` counts every request, retries included."""

    def __init__(self, model: str, url: str, key: str, settings: OpenAISettings) -> None:
        """Raises ValueError for an invalid address, and for a header whose environment variable is not set."""
        local = is_this_machine(_checked_host(url))
        self.name = f"openai:{model}@{url}"
        self.revision = f"{REQUEST_VERSION}-{JPEG_QUALITY}-{settings.digest}"
        self.capabilities = Capabilities(
            images=settings.images,
            max_images=settings.max_images,
            concurrency=settings.concurrency,
            sends_to=destination(url, uses_proxies=not local),
            tool_calls="native" if settings.tool_calls else "json",
        )
        self.budget = Budget()
        self._model, self._url, self._settings = model, url, settings
        self._refused = RefusedFields((*OPTIONAL_FIELDS, *settings.extra_body))
        self._profile: ServerProfile | None = None
        self._cut_said = False
        self._lock = threading.Lock()
        headers = headers_from_environment(settings.headers)
        self._client = JsonClient(
            f"{url}/chat/completions", key, settings, lambda: self.budget.spend(), local, headers
        )

    @property
    def profile(self) -> ServerProfile:
        """The server's profile: that of the setting, or what the server tells; it is asked once."""
        with self._lock:
            if self._profile is None:
                chosen = self._settings.profile
                known = None if chosen == "auto" else PROFILES[chosen]
                self._profile = known or find_profile(self._url, self._client.get)
            return self._profile

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        """A refusal is a reply with its text. Raises MalformedReply if the answer is no completion, Unanswerable if
        the server cannot process the question, and ServerError, TimeoutError or BudgetSpent if there is no answer."""
        start, settings = time.perf_counter(), self._settings
        request = chat_request(self._model, parts, schema, seed, settings, self.profile)
        try:
            answer, retries = self._ask(self._refused.adapt(request))
        except Unanswerable as error:
            if "tools" not in request or not _REFUSES_TOOLS.search(str(error)):
                raise
            self._settings = dataclasses.replace(settings, tool_calls=False)
            self._warn("the server refuses tools; it is asked for actions as JSON")
            return self.generate(parts, schema, seed)
        choice = answer["choices"][0]
        message, finish = read_message(choice["message"]), finish_of(choice.get("finish_reason"))
        called = action_text(choice["message"], schema, finish == "length") if is_action(schema) else None
        tokens_in, tokens_out = _tokens(answer)
        return Reply(
            self._client.clean(message.refusal or called or message.text),
            (time.perf_counter() - start) * 1e3,
            tokens_in,
            tokens_out,
            retries=retries,
            thinking=self._client.clean(message.thinking),
            finish="refusal" if message.refusal else finish,
            warning=self._warn_of_cut(text_chars(request), tokens_in),
        )

    def _ask(self, request: Json) -> tuple[Json, int]:
        """The answer, and the number of requests before it. The request is changed as long as the server refuses a
        field of it; if that works, all later requests are changed too."""
        made: list[Change] = []
        while True:
            try:
                answer, retries = self._send(request)
            except Unanswerable as error:
                change = self._refused.next_change(request, str(error), made)
                if change is None:
                    raise
                made.append(change)
                request = change.make(request) or request
            else:
                for change in self._refused.remember(made):
                    self._warn(f"the server {change.sentence}")
                return answer, retries + len(made)

    def _warn_of_cut(self, chars: int, tokens: int) -> str:
        """A sentence if the server cut the prompt; it is printed for the first one only."""
        sentence = prompt_cut(chars, tokens, self.profile.longer_context)
        if sentence and not self._cut_said:
            self._cut_said = True
            self._warn(sentence)
        return sentence

    def _warn(self, sentence: str) -> None:
        logging.getLogger(__name__).warning("%s (profile %s): %s", self.name, self.profile.name, sentence)

    def _send(self, request: Json) -> tuple[Json, int]:
        body = self._client.post(json.dumps(request).encode())
        answer = _parse(body.text)
        _check_choice(answer, self._client.clean)
        return answer, body.retries


def from_argument(argument: str, **settings: object) -> OpenAIBackend:
    """The backend of NAME or NAME@URL. Raises ValueError for an invalid spec, address or setting."""
    model, at, url = argument.partition("@http")
    if not model or (not at and "@" in model):
        raise ValueError(f"openai:NAME@http://host:port/v1 names a model and its server, not {argument!r}")
    url = at[1:] + url if at else os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError("OPENAI_API_KEY has characters that a header cannot have")
    if url == DEFAULT_URL and not key:
        raise ValueError(f"{DEFAULT_URL} needs a key, and OPENAI_API_KEY is not set")
    chosen = read_settings(OpenAISettings, "openai", settings)
    return OpenAIBackend(model, url.rstrip("/"), key, chosen)


def _parse(body: str) -> Json:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedReply("the server's answer is not complete JSON") from error
    if not isinstance(answer, dict):
        raise MalformedReply("the server's answer is not a JSON object")
    return answer


def _check_choice(answer: Json, clean: Callable[[str], str]) -> None:
    """Raises unless there is a choice with a message. Some servers send an error with status 200, in place of the
    answer or within its choice."""
    match answer:
        case {"choices": [{"error": dict() | str()} as failed, *_]}:
            raise _error_in_body(failed, clean)
        case {"error": dict() | str() as error} if error or "choices" not in answer:
            raise _error_in_body(answer, clean)
        case {"choices": [{"message": dict()}, *_]}:
            return
        case {"object": "error"} | {"detail": _}:
            raise _error_in_body(answer, clean)
    raise MalformedReply("the server's answer has no choice with a message")


def _error_in_body(body: Json, clean: Callable[[str], str]) -> Exception:
    """The error with its message; its code decides whether the question is at fault, as an HTTP status does."""
    error = body.get("error")
    code = error.get("code") if isinstance(error, dict) else body.get("code")
    kind = Unanswerable if str(code) in map(str, QUESTION_AT_FAULT) else ServerError
    return kind(f"the server answered with an error: {clean(error_message(body)) or 'without a message'}")


def _tokens(answer: Json) -> tuple[int, int]:
    """Prompt and completion tokens as the server reports them; 0 if it reports none."""
    usage = answer.get("usage")
    counts = (
        [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        if isinstance(usage, dict)
        else []
    )
    tokens_in, tokens_out = (count if isinstance(count, int) else 0 for count in counts or (0, 0))
    return tokens_in, tokens_out
    return 0, 0


def _checked_host(url: str) -> str:
    """Host and port. Raises ValueError, without quoting the address, which may contain a secret."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for an invalid port
    except ValueError:
        raise ValueError(
            "a server's address is http://host:port/v1, with a port number up to 65535"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a server's address is http://host:port/v1 or https://host/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "a server's address contains no user, password or query: the key is read from OPENAI_API_KEY"
        )
    return parts.netloc
