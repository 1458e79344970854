"""The answers to the six tasks as pydantic models; a backend receives their JSON schemas.

Scores are an object with one key per hypothesis label, `{"A": {"comment": ..., "score": ...}}`, a form that all
constrained decoders and providers support. A missing or additional label makes the answer malformed.

The limits are in the schemas and in the prompts. Some providers reject them in a schema: `agent.vlm.schemas` removes
them there. So they are also applied here: text that is too long is cut and a list is shortened, as their beginning is
an answer; a number outside its range makes the answer malformed, as any other number would be invented.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    create_model,
    model_validator,
)

from agent.vlm.actions import MAX_CALLS_AT_ONCE, calls_schema
from agent.vlm.protocol import CallSpec
from memory.text_limits import MAX_TAG_CHARS, MAX_TAGS

__all__ = ["MineAnswer", "MinedRule", "TagAnswer", "Uncertainty", "Verdict", "action_model", "keyed_by_label"]

COMMENT_CHARS = 400
RULE_CHARS = 240  # a mined rule becomes part of later prompts; a short one can hardly carry instructions
METRIC_CHARS = 120
MAX_RULES = 2
ARGUMENT_CHARS = 2000  # of a call, as JSON


def _cut(limit: int) -> BeforeValidator:
    """Makes a text one line, as a line of its own could look like the program's, and cuts it to `limit` characters,
    visibly."""

    def cut(text: object) -> object:
        if not isinstance(text, str):
            return text
        line = " ".join(text.split())
        return f"{line[: limit - 1].rstrip()}…" if len(line) > limit else line

    return BeforeValidator(cut)


def _first(limit: int) -> BeforeValidator:
    """Keeps the first `limit` items of a list."""
    return BeforeValidator(lambda items: items[:limit] if isinstance(items, list) else items)


def _no_links(text: str) -> str:
    if "://" in text or "www." in text:
        raise ValueError("a rule must not contain links")
    return text


def _short_json(value: Any) -> Any:
    if len(json.dumps(value, allow_nan=False)) > ARGUMENT_CHARS:  # raises ValueError for NaN
        raise ValueError(f"the arguments of a call may have {ARGUMENT_CHARS} characters")
    return value


Comment = Annotated[str, _cut(COMMENT_CHARS), Field(max_length=COMMENT_CHARS)]
Tag = Annotated[str, _cut(MAX_TAG_CHARS), Field(max_length=MAX_TAG_CHARS)]
Tags = Annotated[list[Tag], _first(MAX_TAGS), Field(max_length=MAX_TAGS)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class TagAnswer(_Answer):
    """Task "tag": properties of the image, such as "occluded:legs" or "pose:sitting"."""

    tags: Tags


class Verdict(_Answer):
    """Tasks "score" and "revise": the score of one hypothesis and a sentence that explains it."""

    comment: Comment
    score: Annotated[float, Field(ge=0, le=100)]


class Uncertainty(_Answer):
    """Task "reflect": whether the score of one hypothesis is uncertain."""

    uncertain: bool
    reason: Comment


class MinedRule(_Answer):
    """A rule with a predicate: `metric comparison threshold` counts against a hypothesis, by `weight`."""

    text: Annotated[str, _cut(RULE_CHARS), Field(max_length=RULE_CHARS), AfterValidator(_no_links)]
    tags: Tags
    metric: Annotated[str, _cut(METRIC_CHARS), Field(max_length=METRIC_CHARS)]
    comparison: Literal[">", "<"]
    threshold: float
    weight: Annotated[float, Field(ge=0, le=10)]


class MineAnswer(_Answer):
    """Task "mine": at most two rules; none if no metric separates the two lists."""

    rules: Annotated[list[MinedRule], _first(MAX_RULES), Field(max_length=MAX_RULES)]


class CallRequest(_Answer):
    """One call in an action. Its arguments are checked when it is answered: a wrong one costs a call, not the group's
    scores."""

    name: str
    arguments: Annotated[Any, AfterValidator(_short_json)]


class _Action(_Answer):
    """Task "act" while calls are left: calls, or the scores."""

    calls: list[CallRequest]
    scores: BaseModel | None

    @model_validator(mode="after")
    def _one_of_both(self) -> _Action:
        if bool(self.calls) == (self.scores is not None):
            raise ValueError("an action has either calls or scores, and the other one is empty")
        return self


def action_model(labels: Sequence[str], calls: Sequence[CallSpec]) -> type[BaseModel]:
    """The model of an action with `calls` and `scores`; without calls, of one with scores alone."""
    return _action(tuple(labels), json.dumps(calls_schema(calls)) if calls else "")


@lru_cache(maxsize=64)
def _action(labels: tuple[str, ...], calls: str) -> type[BaseModel]:
    """calls: the schema as text, so that equal ones are found again."""
    scores = _keyed("scores", Verdict, labels)
    fields: dict[str, Any] = {"scores": (scores, ...)}
    if not calls:
        return create_model("act", __base__=_Answer, **fields)
    known = WithJsonSchema(json.loads(calls))
    fields = {
        "calls": (Annotated[list[CallRequest], Field(max_length=MAX_CALLS_AT_ONCE), known], ...),
        "scores": (scores | None, ...),
    }
    return create_model("act", __base__=_Action, **fields)


@lru_cache(maxsize=256)
def _keyed(task: str, entry: type[BaseModel], labels: tuple[str, ...]) -> type[BaseModel]:
    fields: dict[str, Any] = dict.fromkeys(labels, (entry, ...))
    return create_model(task, __base__=_Answer, **fields)


def keyed_by_label(task: str, entry: type[BaseModel], labels: Sequence[str]) -> type[BaseModel]:
    """The model of an object with exactly these labels as keys and `entry` values; `task` is its schema's title."""
    return _keyed(task, entry, tuple(labels))
