"""Backend for servers with OpenAI's chat completions API: vLLM, SGLang, Ollama, llama.cpp, OpenAI itself.

    openai:NAME@http://host:port/v1     NAME as the server lists it; without @URL: OPENAI_BASE_URL, else api.openai.com

The key is read from OPENAI_API_KEY only. It is sent to the given server, as OpenAI's own client does, and nowhere else:
it is removed from every answer and error message of the server.

Pictures are decoded and encoded again as JPEG without EXIF or other metadata, with sides of at most `image_side_px`.
The schema is sent as `response_format: json_schema`, and again as text for servers that ignore that field.

Left out: the Responses API, tools, streaming, several choices, and the `detail` of a picture, which only OpenAI reads.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, ImageOps

from agent.vlm.hosts import destination, is_this_machine
from agent.vlm.http import JsonClient, RequestLimits, ServerError
from agent.vlm.protocol import Capabilities, ImagePart, MalformedReply, Part, Reply, TextPart, Unanswerable
from agent.vlm.settings import read_settings, require_positive
from agent.vlm.wrappers.budget import Budget
from common.fingerprint import json_digest

__all__ = ["OpenAIBackend", "OpenAISettings", "data_url", "from_argument"]

DEFAULT_URL = "https://api.openai.com/v1"
REQUEST_VERSION = "1"  # increase when the request for the same question changes
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
        self._client = JsonClient(
            f"{url}/chat/completions", key, settings, lambda: self.budget.spend(), local
        )

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        """Raises MalformedReply if the answer has no text, Unanswerable if the model refuses, and ServerError,
        TimeoutError or BudgetSpent if there is no answer."""
        start = time.perf_counter()
        body = self._client.post(json.dumps(self._request(parts, schema, seed)).encode())
        answer = _parse(body.text)
        text = self._client.clean(_text(answer))
        ms = (time.perf_counter() - start) * 1e3
        return Reply(text, ms, *_tokens(answer), retries=body.retries)

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


def _text(answer: Json) -> str:
    match answer:
        case {"choices": [{"message": {"content": str(text)}}, *_]} if text.strip():
            return text
        case {"choices": [{"message": {"refusal": str()}}, *_]}:
            raise Unanswerable("the model refused to answer")
        case {"error": _}:
            raise ServerError("the server answered with an error")
    raise MalformedReply("the server's answer has no choice with a text")


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
