"""Reads what models and servers return: the answer without its thinking, why it ended, refusals and error messages.

Reasoning models write a draft before their answer. It reaches a client in several forms:

| form                                                            | sent by                                    |
|-----------------------------------------------------------------|--------------------------------------------|
| tags in the text, also without the first or the last one        | servers without a reasoning parser         |
| `reasoning_content`, `reasoning`, `thinking` beside the content | vLLM, SGLang, llama.cpp, OpenRouter        |
| parts of the content with their own type                        | Mistral, Anthropic, LangChain              |

A template may write the first tag into the question, so everything before a closing tag is thinking; an answer that is
cut off in its thinking has no last tag, so everything after an opening tag is. A draft that is cut off and has neither
tag is refused by `agent.scoring.ask.parse`, if it does not begin with the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Finish", "Message", "error_message", "finish_of", "read_message", "split_thinking"]

# Empty: ended by itself, or the server does not say.
Finish = Literal["", "length", "content_filter", "refusal"]

_TAG = re.compile(
    r"(?P<open><(?:think|thinking|thought|reasoning|seed:think)>|\[THINK\]|◁think▷|<\|channel>thought"
    r"|<\|channel\|>(?:analysis|commentary)[^<{]*<\|message\|>)"
    r"|</(?:think|thinking|thought|reasoning|seed:think)>|\[/THINK\]|◁/think▷|<channel\|>"
    r"|<\|channel\|>final[^<{]*<\|message\|>",
    re.IGNORECASE,
)
MAX_DEPTH = 20  # of lists in a message
_THINKING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thinking_blocks", "reasoning_details")
_TEXT_FIELDS = ("text", "thinking", "reasoning", "content", "summary")
_TEXT_TYPES = ("text", "output_text")
_FINISH: dict[str, Finish] = {
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens"), "length"),
    **dict.fromkeys(
        ("content_filter", "safety", "prohibited_content", "blocklist", "image_safety"), "content_filter"
    ),
    "refusal": "refusal",
}


@dataclass(frozen=True)
class Message:
    """A model's message: the text of its answer, its thinking, and its refusal if it refused."""

    text: str
    thinking: str = ""
    refusal: str = ""


def split_thinking(text: str) -> tuple[str, str]:
    """The text without thinking in tags, and that thinking."""
    answer, thinking = [], []
    start, is_open = 0, False
    for tag in _TAG.finditer(text):
        (thinking if is_open else answer).append(text[start : tag.start()])
        if not tag["open"] and not is_open:  # the question opened it: all so far is thinking
            thinking.extend(answer)
            answer.clear()
        start, is_open = tag.end(), bool(tag["open"])
    (thinking if is_open else answer).append(text[start:])
    if start == 0:
        return text, ""
    return "".join(answer).strip(), "\n".join(piece.strip() for piece in thinking if piece.strip())


def read_message(message: Mapping[str, Any]) -> Message:
    """The message of a chat completion; `content` is a text, a list of parts, or missing."""
    content = message.get("content")
    pieces = content if isinstance(content, list) else [content]
    texts, thinking, refusals = [], [_first_text(message, _THINKING_FIELDS)], [message.get("refusal")]
    for piece in pieces:
        if not isinstance(piece, dict):
            texts.append(piece)
        elif piece.get("type") in _TEXT_TYPES:
            texts.append(piece.get("text"))
        elif piece.get("type") == "refusal":
            refusals.append(piece.get("refusal"))
        else:
            thinking.append(_first_text(piece, _TEXT_FIELDS))
    return Message(_joined(texts, ""), _joined(thinking, "\n"), _joined(refusals, " "))


def finish_of(reason: object) -> Finish:
    """Why an answer ended, from the finish or stop reason of any provider."""
    return _FINISH.get(reason.lower(), "") if isinstance(reason, str) else ""


def error_message(body: object) -> str:
    """The message in an error's JSON body, in the forms of OpenAI, vLLM, FastAPI and Ollama; empty if it has none."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return ""
    if not isinstance(body, dict):
        return ""
    error = body.get("error") or body
    if isinstance(error, str):
        return error
    if not isinstance(error, dict):
        return ""
    found = [error.get(key) for key in ("message", "detail", "msg")]
    message = next((item if isinstance(item, str) else json.dumps(item) for item in found if item), "")
    field = error.get("param")  # OpenAI names the field that it refuses there, and not always in the message
    return f"{message} ({field})" if isinstance(field, str) and field not in message else message


def _first_text(fields: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The text of the first of these fields that has any; the others repeat it in another form."""
    return next((text for name in names if (text := _text_in(fields.get(name)))), "")


def _text_in(value: object, depth: int = 0) -> str:
    """The texts of a value; lists in more than `MAX_DEPTH` lists are left out."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth < MAX_DEPTH:
        return "\n".join(text for item in value if (text := _text_in(item, depth + 1)))
    return _first_text(value, _TEXT_FIELDS) if isinstance(value, dict) else ""


def _joined(pieces: list[Any], between: str) -> str:
    return between.join(piece for piece in pieces if isinstance(piece, str) and piece)
