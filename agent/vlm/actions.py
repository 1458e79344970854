"""Actions: the answers of the task "act", in which a model calls for evidence before it scores.

The schema of an action has `calls`, a list of objects with the name and the arguments of each call, and `scores`, which
is null until the model scores. When no call is left, it has `scores` alone. A backend with a provider's own form of
calls reads here which calls the schema allows, and writes the calls that it received as an action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.vlm.protocol import CallSpec

__all__ = ["MAX_CALLS_AT_ONCE", "allowed_calls", "calls_schema", "is_action", "scores_schema"]

Json = dict[str, Any]
MAX_CALLS_AT_ONCE = 32  # in one answer, so that an answer under a constraint ends


def calls_schema(calls: Sequence[CallSpec]) -> Json:
    """The schema of `calls`: any of these, by name."""
    items = {"anyOf": [_call_schema(call) for call in calls]}
    return {"type": "array", "maxItems": MAX_CALLS_AT_ONCE, "items": items}


def is_action(schema: Mapping[str, Any]) -> bool:
    return schema["title"] == "act"


def allowed_calls(schema: Mapping[str, Any]) -> list[CallSpec]:
    """The calls that the schema of an action allows; none if only scores are left."""
    if "calls" not in schema["properties"]:
        return []
    return [_call_spec(item) for item in schema["properties"]["calls"]["items"]["anyOf"]]


def scores_schema(schema: Mapping[str, Any]) -> Json:
    """The schema of the scores in the schema of an action, complete with its definitions."""
    scores = schema["properties"]["scores"]
    reference = next((item for item in scores.get("anyOf", ()) if "$ref" in item), scores)["$ref"]
    definitions = dict(schema["$defs"])
    return {**definitions.pop(reference.rpartition("/")[2]), "$defs": definitions}


def _call_schema(call: CallSpec) -> Json:
    return {
        "type": "object",
        "description": call.description,
        "properties": {"name": {"type": "string", "enum": [call.name]}, "arguments": call.schema},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _call_spec(item: Json) -> CallSpec:
    fields = item["properties"]
    return CallSpec(fields["name"]["enum"][0], item["description"], fields["arguments"])
