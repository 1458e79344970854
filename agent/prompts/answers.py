"""The five answers the agent asks for, as pydantic models; their JSON schemas are what a backend is given.

Scores are an object keyed by hypothesis label, `{"A": {"comment": ..., "score": ...}}`, because that is what
every constrained decoder and provider can hold to; bounds are checked here and not in the schema, since some
providers reject `minimum`. The label set is exact: a missing or an extra hypothesis is a malformed answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

__all__ = ["Doubt", "MineAnswer", "MinedRule", "TagAnswer", "Verdict", "keyed_by_label"]

COMMENT_CHARS = 400
RULE_CHARS = 240  # a mined rule is read by every later prompt: short, and no place for instructions


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
        raise ValueError("a rule holds no links")
    return text


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class TagAnswer(_Answer):
    """task "tag": what is special about this image, such as "occluded:legs" or "pose:sitting"."""

    tags: list[Annotated[str, _at_most(60)]]


class Verdict(_Answer):
    """tasks "score" and "revise": one hypothesis' score and the sentence that goes with it."""

    comment: Annotated[str, _at_most(COMMENT_CHARS)]
    score: Annotated[float, _within(0.0, 100.0)]


class Doubt(_Answer):
    """task "reflect": whether one hypothesis' score should be looked at again."""

    doubt: bool
    reason: Annotated[str, _at_most(COMMENT_CHARS)]


class MinedRule(_Answer):
    """A rule a program can test: `metric` above `threshold` speaks against a hypothesis, by `weight`."""

    text: Annotated[str, _at_most(RULE_CHARS), AfterValidator(_no_links)]
    tags: list[Annotated[str, _at_most(60)]]
    metric: str
    comparison: Literal[">", "<"]
    threshold: float
    weight: Annotated[float, _within(0.0, 10.0)]


class MineAnswer(_Answer):
    """task "mine": one or two rules, or none where the discrepancy teaches nothing."""

    rules: Annotated[list[MinedRule], Field(description="at most two")]


@lru_cache(maxsize=256)
def _keyed(task: str, entry: type[BaseModel], labels: tuple[str, ...]) -> type[BaseModel]:
    fields: dict[str, Any] = dict.fromkeys(labels, (entry, ...))
    return create_model(task, __base__=_Answer, **fields)


def keyed_by_label(task: str, entry: type[BaseModel], labels: Sequence[str]) -> type[BaseModel]:
    """The model of an object with exactly these labels, each holding an `entry`; its schema's title is
    `task`.
    """
    return _keyed(task, entry, tuple(labels))
