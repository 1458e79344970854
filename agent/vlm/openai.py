"""Backend for servers with OpenAI's chat completions API: vLLM, SGLang, Ollama, llama.cpp, OpenAI itself.

    openai:NAME@http://host:port/v1     NAME as the server lists it; without @URL: OPENAI_BASE_URL, else api.openai.com

The key is read from OPENAI_API_KEY only. It is sent to the given server, as OpenAI's own client does, and nowhere else:
it is removed from every answer and error message of the server.

Pictures are decoded and encoded again as JPEG without EXIF or other metadata, with sides of at most `image_side_px`.
The schema is sent as `response_format: json_schema`, and again as text for servers that ignore that field; without its
limits on numbers, texts and lists to a server that refuses them.

Left out: the Responses API, tools, streaming, several choices, and the `detail` of a picture, which only OpenAI reads.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, ImageOps

from agent.vlm.hosts import destination, is_this_machine
from agent.vlm.http import QUESTION_AT_FAULT, JsonClient, RequestLimits, ServerError
from agent.vlm.messages import error_message, finish_of, read_message
from agent.vlm.protocol import Capabilities, ImagePart, MalformedReply, Part, Reply, TextPart, Unanswerable
from agent.vlm.schemas import refuses_bounds, without_bounds
from agent.vlm.settings import read_settings, require_positive
from agent.vlm.wrappers.budget import Budget
from common.fingerprint import json_digest

__all__ = ["OpenAIBackend", "OpenAISettings", "data_url", "from_argument"]

DEFAULT_URL = "https://api.openai.com/v1"
REQUEST_VERSION = "2"  # increase when the request for the same question changes
JPEG_QUALITY = 92
Json = dict[str, Any]


@dataclass(frozen=True)
class OpenAISettings(RequestLimits):
    """Settings of this backend for `--set field=value`, the request limits included."""

    temperature: float | None = 0.0  # None: the server's default; some OpenAI models accept no other
    max_tokens: int | None = None  # of an answer; None: the server's limit
    image_side_px: int = 1024  # larger pictures are scaled down
    max_images: int | None = None  # per request, the photograph included; larger groups are scored in chunks

    def __post_init__(self) -> None:
        require_positive(self, "deadline_s", "attempts", "max_bytes", "concurrency")
        require_positive(self, "max_tokens", "image_side_px", "max_images")


class OpenAIBackend:
    """One model on one server. Thread-safe. `budget` counts every request, retries included."""

    def __init__(self, model: str, url: str, key: str, settings: OpenAISettings) -> None:
        host = _checked_host(url)
        self.name = f"openai:{model}@{url}"
        self.revision = _revision(settings)
        local = is_this_machine(host)
        self.capabilities = Capabilities(
            images=True,
            max_images=settings.max_images,
            concurrency=settings.concurrency,
            sends_to=destination(url, uses_proxies=not local),
        )
        self.budget = Budget()
        self._model, self._settings = model, settings
        self._sends_bounds = True
        self._client = JsonClient(
            f"{url}/chat/completions", key, settings, lambda: self.budget.spend(), local
        )

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        """A refusal is a reply with its text. Raises MalformedReply if the answer is no completion, Unanswerable if
        the server cannot process the question, and ServerError, TimeoutError or BudgetSpent if there is no answer."""
        start = time.perf_counter()
        answer, retries = self._ask(parts, schema, seed)
        choice = answer["choices"][0]
        message = read_message(choice["message"])
        return Reply(
            self._client.clean(message.refusal or message.text),
            (time.perf_counter() - start) * 1e3,
            *_tokens(answer),
            retries=retries,
            thinking=self._client.clean(message.thinking),
            finish="refusal" if message.refusal else finish_of(choice.get("finish_reason")),
        )

    def _ask(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> tuple[Json, int]:
        """The answer, and the number of requests before it. A server that refuses a schema with bounds is asked again
        without them; if that works, so are all later questions."""
        request, has_bounds = self._request(parts, schema, seed), self._sends_bounds
        if not has_bounds:
            return self._send(_without_bounds(request))
        try:
            return self._send(request)
        except Unanswerable as error:
            if not refuses_bounds(str(error)):
                raise
            answer, retries = self._send(_without_bounds(request))
        if self._sends_bounds:
            logging.getLogger(__name__).warning(
                "%s refuses limits in the schema; it is asked without them", self.name
            )
        self._sends_bounds = False
        return answer, retries + 1

    def _send(self, request: Json) -> tuple[Json, int]:
        body = self._client.post(json.dumps(request).encode())
        answer = _parse(body.text)
        _check_choice(answer, self._client.clean)
        return answer, body.retries

    def _request(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Json:
        settings = self._settings
        wanted = f"Answer with one JSON object that fits this schema, and nothing else:\n{json.dumps(dict(schema))}"
        content = [piece for part in (*parts, TextPart(wanted)) for piece in self._pieces(part)]
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": schema["title"], "strict": True, "schema": dict(schema)},
            },
            "seed": seed,
            **({} if settings.temperature is None else {"temperature": settings.temperature}),
            **({} if settings.max_tokens is None else {"max_tokens": settings.max_tokens}),
        }

    def _pieces(self, part: Part) -> list[Json]:
        if isinstance(part, ImagePart):
            picture = {
                "type": "image_url",
                "image_url": {"url": data_url(part, self._settings.image_side_px)},
            }
            return [{"type": "text", "text": f"{part.caption}:"}, picture] if part.caption else [picture]
        return [{"type": "text", "text": part.text}]


def from_argument(argument: str, **settings: object) -> OpenAIBackend:
    """The backend of NAME or NAME@URL. Raises ValueError for an invalid spec, address or setting."""
    model, at, url = argument.partition("@http")
    if not model or (not at and "@" in model):
        raise ValueError(f"openai:NAME@http://host:port/v1 names a model and its server, not {argument!r}")
    url = at[1:] + url if at else os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if url == DEFAULT_URL and not key:
        raise ValueError(f"{DEFAULT_URL} needs a key, and OPENAI_API_KEY is not set")
    chosen = read_settings(OpenAISettings, "openai", settings)
    return OpenAIBackend(model, url.rstrip("/"), key, chosen)


def data_url(part: ImagePart, side_px: int) -> str:
    """The picture as a data URL: an upright JPEG without metadata, with sides of at most `side_px`."""
    with Image.open(io.BytesIO(part.png)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    upright.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, exif=b"")
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _parse(body: str) -> Json:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedReply("the server's answer is not complete JSON") from error
    if not isinstance(answer, dict):
        raise MalformedReply("the server's answer is not a JSON object")
    return answer


def _without_bounds(request: Json) -> Json:
    form = request["response_format"]["json_schema"]
    bare = {**form, "schema": without_bounds(form["schema"])}
    return {**request, "response_format": {"type": "json_schema", "json_schema": bare}}


def _check_choice(answer: Json, clean: Callable[[str], str]) -> None:
    """Raises unless there is a choice with a message. Some servers send an error with status 200, in place of the
    answer or within its choice."""
    match answer:
        case {"choices": [{"error": dict() | str()} as failed, *_]}:
            raise _error_in_body(failed, clean)
        case {"choices": [{"message": dict()}, *_]}:
            return
        case {"error": dict() | str()} | {"object": "error"} | {"detail": _}:
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
    match answer.get("usage"):
        case {"prompt_tokens": int(tokens_in), "completion_tokens": int(tokens_out)}:
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


def _revision(settings: OpenAISettings) -> str:
    shaping = [
        REQUEST_VERSION,
        JPEG_QUALITY,
        settings.temperature,
        settings.max_tokens,
        settings.image_side_px,
    ]
    return f"{REQUEST_VERSION}-{json_digest(shaping, length=8)}"
