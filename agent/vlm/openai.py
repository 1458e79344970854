"""Any server that speaks OpenAI's chat completions: vLLM, SGLang, Ollama, llama.cpp, OpenAI itself.

    openai:NAME@http://host:port/v1     NAME as the server lists it; without @URL: OPENAI_BASE_URL, else api.openai.com

The key comes from OPENAI_API_KEY and nowhere else. It is sent to whatever server is named, as OpenAI's own client does,
and never leaves this module otherwise: what a server says is cleaned of it before anyone reads it.

Pictures are decoded and written anew as JPEG (no EXIF, no other metadata survives), at most `image_side_px` large. The
schema goes as `response_format: json_schema`, and once more in words, for servers that ignore it.

Left out: the Responses API, tools, streaming, several choices, and a picture's `detail`, which only OpenAI reads.
"""

from __future__ import annotations

import base64
import hashlib
import io
import ipaddress
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, ImageOps

from agent.vlm.http import ServerError, Wire, WireLimits
from agent.vlm.protocol import Capabilities, ImagePart, MalformedReply, Part, Reply, TextPart, Unanswerable
from agent.vlm.settings import above_zero, read_settings
from agent.vlm.wrappers.budget import Budget

__all__ = ["OpenAIBackend", "OpenAISettings", "data_url", "from_argument"]

DEFAULT_URL = "https://api.openai.com/v1"
WIRE_VERSION = "1"  # raise it when the same question is put in other words
JPEG_QUALITY = 92
Json = dict[str, Any]


@dataclass(frozen=True)
class OpenAISettings(WireLimits):
    """What `--set field=value` can change of this backend, the limits of the wire included."""

    temperature: float | None = 0.0  # None: the server's own; some of OpenAI's models refuse any other
    max_tokens: int | None = None  # of an answer; None: the server's own limit
    image_side_px: int = 1024  # longer pictures are sent smaller
    max_images: int | None = None  # in one request, the photograph too; larger groups are judged in chunks

    def __post_init__(self) -> None:
        above_zero(self, "deadline_s", "attempts", "max_bytes", "concurrency")
        above_zero(self, "max_tokens", "image_side_px", "max_images")


class OpenAIBackend:
    """One model on one server; safe between threads. `budget` counts every request, the repeated ones too."""

    def __init__(self, model: str, url: str, key: str, settings: OpenAISettings) -> None:
        host = _checked_host(url)
        self.name = f"openai:{model}@{url}"
        self.revision = _revision(settings)
        local = _is_this_machine(host)
        self.capabilities = Capabilities(
            images=True,
            max_images=settings.max_images,
            concurrency=settings.concurrency,
            sends_to="" if local else host,
        )
        self.budget = Budget()
        self._model, self._settings = model, settings
        self._wire = Wire(f"{url}/chat/completions", key, settings, lambda: self.budget.spend(), local)

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        """Raises MalformedReply for an answer without text, Unanswerable for a refusal; ServerError, TimeoutError,
        BudgetSpent for none at all."""
        start = time.perf_counter()
        body = self._wire.post(json.dumps(self._request(parts, schema, seed)).encode())
        answer = _parsed(body.text)
        text = self._wire.clean(_text_of(answer))
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
    """The backend of NAME or NAME@URL. Raises ValueError for a spec, an address or a setting that is none."""
    model, at, url = argument.partition("@http")
    if not model or (not at and "@" in model):
        raise ValueError(f"openai:NAME@http://host:port/v1 names a model and where it is, not {argument!r}")
    url = at[1:] + url if at else os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if url == DEFAULT_URL and not key:
        raise ValueError(f"{DEFAULT_URL} asks for a key, and OPENAI_API_KEY is not set")
    chosen = read_settings(OpenAISettings, "openai", settings)
    return OpenAIBackend(model, url.rstrip("/"), key, chosen)


def data_url(part: ImagePart, side_px: int) -> str:
    """The picture as a JPEG of at most `side_px`, upright, without the file's metadata."""
    with Image.open(io.BytesIO(part.png)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    upright.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, exif=b"")
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _parsed(body: str) -> Json:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedReply("the server's answer is not whole JSON") from error
    if not isinstance(answer, dict):
        raise MalformedReply("the server's answer is no JSON object")
    return answer


def _text_of(answer: Json) -> str:
    match answer:
        case {"choices": [{"message": {"content": str(text)}}, *_]} if text.strip():
            return text
        case {"choices": [{"message": {"refusal": str()}}, *_]}:
            raise Unanswerable("the model refused to answer")
        case {"error": _}:
            raise ServerError("the server answered with an error")
    raise MalformedReply("the server's answer holds no choice with a text")


def _tokens(answer: Json) -> tuple[int, int]:
    """What the server says was read and written; 0 where it says nothing."""
    match answer.get("usage"):
        case {"prompt_tokens": int(tokens_in), "completion_tokens": int(tokens_out)}:
            return tokens_in, tokens_out
    return 0, 0


def _checked_host(url: str) -> str:
    """Host and port. Raises ValueError, without repeating an address that may hold a secret."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number, which no request would get past
    except ValueError:
        raise ValueError(
            "a server's address is http://host:port/v1, and its port a number up to 65535"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a server's address is http://host:port/v1 or https://host/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "a server's address holds no user, password or query: the key is read from OPENAI_API_KEY"
        )
    return parts.netloc


def _is_this_machine(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _revision(settings: OpenAISettings) -> str:
    shaping = [WIRE_VERSION, JPEG_QUALITY, settings.temperature, settings.max_tokens, settings.image_side_px]
    return f"{WIRE_VERSION}-{hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:8]}"
