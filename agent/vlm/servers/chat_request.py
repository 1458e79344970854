"""The body of a chat completion request: the parts of a question, as a server of a given profile accepts them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageOps

from agent.vlm.actions import is_action
from agent.vlm.protocol import ImagePart, Part, TextPart
from agent.vlm.schemas import without_bounds
from agent.vlm.servers.profiles import ResponseFormat, ServerProfile
from agent.vlm.servers.settings import OpenAISettings
from agent.vlm.servers.tool_calls import call_messages, offered_tools

__all__ = ["JPEG_QUALITY", "chat_request", "data_url", "text_chars"]

JPEG_QUALITY = 92
Json = dict[str, Any]


def chat_request(
    model: str,
    parts: Sequence[Part],
    schema: Mapping[str, Any],
    seed: int,
    settings: OpenAISettings,
    profile: ServerProfile,
) -> Json:
    """The request for one question. The schema is also sent as text, for servers that ignore the format. An action is
    asked for as a call of a function, unless a setting says otherwise."""
    allowed = schema if profile.takes_bounds else without_bounds(schema)
    if settings.tool_calls and is_action(schema):
        messages = call_messages(parts, lambda asked: _content(asked, settings))
        form = {"tools": offered_tools(allowed), "tool_choice": "required"}
    else:
        wanted = f"Answer with one JSON object that fits this schema, and nothing else:\n{json.dumps(dict(schema))}"
        messages = [{"role": "user", "content": _content([*parts, TextPart(wanted)], settings)}]
        form = {"response_format": _response_format(settings.format_for(profile), allowed)}
    optional = {
        **form,
        "seed": seed if settings.send_seed else None,
        "temperature": settings.temperature,
        settings.token_field_for(profile): settings.max_tokens,
    }
    return {
        "model": model,
        "messages": messages,
        **{name: value for name, value in optional.items() if value is not None},
        **settings.extra_body,
    }


def text_chars(request: Json) -> int:
    """The number of characters of text in a request's messages."""
    return sum(_text_chars(message["content"]) for message in request["messages"])


def _text_chars(content: str | list[Json] | None) -> int:
    if content is None or isinstance(content, str):
        return len(content or "")
    return sum(len(piece["text"]) for piece in content if piece["type"] == "text")


def data_url(part: ImagePart, side_px: int) -> str:
    """The picture as a data URL: an upright JPEG without metadata, with sides of at most `side_px`."""
    with Image.open(io.BytesIO(part.png)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    upright.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, exif=b"")
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _response_format(kind: ResponseFormat, schema: Mapping[str, Any]) -> Json | None:
    if kind == "json_schema":
        form = {"name": schema["title"], "strict": True, "schema": dict(schema)}
        return {"type": kind, "json_schema": form}
    return None if kind is None else {"type": kind}


def _content(parts: Sequence[Part], settings: OpenAISettings) -> str | list[Json]:
    """A text judge gets one string: not every chat template of a language model takes a list of parts."""
    if not settings.images:
        return "\n\n".join(part.text for part in parts if not isinstance(part, ImagePart))
    return [piece for part in parts for piece in _pieces(part, settings.image_side_px)]


def _pieces(part: Part, side_px: int) -> list[Json]:
    if not isinstance(part, ImagePart):
        return [{"type": "text", "text": part.text}]
    picture = {"type": "image_url", "image_url": {"url": data_url(part, side_px)}}
    return [{"type": "text", "text": f"{part.caption}:"}, picture] if part.caption else [picture]
