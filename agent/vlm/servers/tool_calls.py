"""Calls for evidence in OpenAI's form: the fields `tools` and `tool_choice`, and messages of the role `tool`.

The scores are a call too, of the function `score`, so that every answer is a call and the server can be asked to
require one. The calls that were made before are written as the messages in which they would have been made. Pictures
follow in a message of the user, because a message of the role `tool` takes text only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from agent.vlm.actions import allowed_calls, scores_schema
from agent.vlm.protocol import CallPart, CallSpec, Part

__all__ = ["SCORE", "action_text", "call_messages", "offered_tools"]

Json = dict[str, Any]
Content = Callable[[Sequence[Part]], str | list[Json]]
SCORE = "score"


def offered_tools(schema: Mapping[str, Any]) -> list[Json]:
    """The functions that the model may call: those of the schema of an action, and the scores."""
    score = CallSpec(
        SCORE, "Give the scores of all hypotheses. This ends the examination.", scores_schema(schema)
    )
    return [
        {
            "type": "function",
            "function": {
                "name": call.name,
                "description": call.description,
                "parameters": call.schema,
                "strict": True,
            },
        }
        for call in (*allowed_calls(schema), score)
    ]


def call_messages(parts: Sequence[Part], content: Content) -> list[Json]:
    """The messages of a question with calls; `content`: of a message of the user."""
    messages: list[Json] = []
    for step, group in groupby(parts, lambda part: part.step if isinstance(part, CallPart) else None):
        same = list(group)
        calls = [part for part in same if isinstance(part, CallPart)]
        messages += (
            _step_messages(calls) if step is not None else [{"role": "user", "content": content(same)}]
        )
    return messages


def _step_messages(calls: Sequence[CallPart]) -> list[Json]:
    """The model's message, and one with the result of each call."""
    made, results = [], []
    for place, call in enumerate(calls):
        identity = f"call{call.step:02d}{place:03d}"  # nine letters and digits, as Mistral's servers want
        function = {"name": call.name, "arguments": _object_text(call.arguments)}
        made.append({"id": identity, "type": "function", "function": function})
        results.append({"role": "tool", "tool_call_id": identity, "content": call.result})
    return [{"role": "assistant", "content": None, "tool_calls": made}, *results]


def _object_text(arguments: str) -> str:
    """Servers parse the arguments of earlier calls, and fail for anything but an object."""
    return arguments if isinstance(json.loads(arguments), dict) else "{}"


def action_text(message: Mapping[str, Any], schema: Mapping[str, Any], is_cut: bool) -> str | None:
    """The calls of a message as an action; None if it has none. A call that was cut off is returned as it is, which
    fits no schema."""
    calls = [_function_of(call) for call in message.get("tool_calls") or ()]
    if not calls:
        return None
    if is_cut and not _is_json(calls[-1][1]):
        return str(calls[-1][1])
    scores = next((_json_text(arguments) for name, arguments in calls if name == SCORE), "null")
    others = [
        f'{{"name": {json.dumps(name)}, "arguments": {_json_text(arguments)}}}'
        for name, arguments in calls
        if name != SCORE
    ]
    if not allowed_calls(schema) and not others:
        return f'{{"scores": {scores}}}'
    return f'{{"calls": [{", ".join(others)}], "scores": {scores}}}'


def _function_of(call: object) -> tuple[str, object]:
    match call:
        case {"function": {"name": str(name), "arguments": arguments}}:
            return name, arguments
        case {"function": {"name": str(name)}}:
            return name, {}
    return "", None


def _is_json(arguments: object) -> bool:
    if not isinstance(arguments, str):
        return True
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return True


def _json_text(arguments: object) -> str:
    """Arguments are the text of a JSON object. It is kept as it is, so that a repeated key is found; other text becomes
    a JSON string, which no call accepts."""
    return arguments if isinstance(arguments, str) and _is_json(arguments) else json.dumps(arguments)
