"""The answers to the five tasks as pydantic models; a backend receives their JSON schemas.

Scores are an object with one key per hypothesis label, `{"A": {"comment": ..., "score": ...}}`, a form that all
constrained decoders and providers support. Bounds are checked here and not in the schema, because some providers reject
`minimum`. A missing or additional label makes the answer malformed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

__all__ = ["Doubt", "MineAnswer", "MinedRule", "TagAnswer", "Verdict", "keyed_by_label"]

COMMENT_CHARS = 400
RULE_CHARS = 240  # a mined rule becomes part of later prompts; a short one can hardly carry instructions


def _at_most(limit: int) -> AfterValidator:
    def check(text: str) -> str:
        if len(text) > limit:
            raise ValueError(f"at most {limit} characters, not {len(text)}")
        return text

    return AfterValidator(check)


def _within(low: float, high: float) -> AfterValidator:
    def check(value: float) -> float:
        if not low <= value <= high:
            raise ValueError(f"must lie between {low:g} and {high:g}, not {value:g}")
        return value

    return AfterValidator(check)


def _no_links(text: str) -> str:
    if "://" in text or "www." in text:
        raise ValueError("a rule must not contain links")
    return text


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class TagAnswer(_Answer):
    """Task "tag": properties of the image, such as "occluded:legs" or "pose:sitting"."""

    tags: list[Annotated[str, _at_most(60)]]


class Verdict(_Answer):
    """Tasks "score" and "revise": the score of one hypothesis and a sentence that explains it."""

    comment: Annotated[str, _at_most(COMMENT_CHARS)]
    score: Annotated[float, _within(0.0, 100.0)]


class Doubt(_Answer):
    """Task "reflect": whether the score of one hypothesis is uncertain."""

    doubt: bool
    reason: Annotated[str, _at_most(COMMENT_CHARS)]


class MinedRule(_Answer):
    """A rule with a predicate: `metric comparison threshold` counts against a hypothesis, by `weight`."""

    text: Annotated[str, _at_most(RULE_CHARS), AfterValidator(_no_links)]
    tags: list[Annotated[str, _at_most(60)]]
    metric: str
    comparison: Literal[">", "<"]
    threshold: float
    weight: Annotated[float, _within(0.0, 10.0)]


class MineAnswer(_Answer):
    """Task "mine": at most two rules; none if no metric separates the two lists."""

    rules: Annotated[list[MinedRule], Field(description="at most two")]


@lru_cache(maxsize=256)
def _keyed(task: str, entry: type[BaseModel], labels: tuple[str, ...]) -> type[BaseModel]:
    fields: dict[str, Any] = dict.fromkeys(labels, (entry, ...))
    return create_model(task, __base__=_Answer, **fields)


def keyed_by_label(task: str, entry: type[BaseModel], labels: Sequence[str]) -> type[BaseModel]:
    """The model of an object with exactly these labels as keys and `entry` values; `task` is its schema's title."""
    return _keyed(task, entry, tuple(labels))
