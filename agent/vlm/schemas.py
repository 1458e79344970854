"""Bounds in JSON schemas: some servers hold a model to them, others refuse a schema that has any.

OpenAI's strict mode, Anthropic's tools and the grammars of some servers know no `maxLength` or `minimum`, and say so in
different words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["BOUNDS", "without_bounds"]

Json = dict[str, Any]

BOUNDS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")


def without_bounds(schema: Mapping[str, Any]) -> Json:
    """The schema without limits on numbers, texts and lists."""
    return {key: _without_bounds(value) for key, value in schema.items() if key not in BOUNDS}


def _without_bounds(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_bounds(item) for item in value]
    return without_bounds(value) if isinstance(value, Mapping) else value
