"""Schema of an explored case, as the critic judged it; files from other users are checked against it.

`agent.exploration.learning.Explored.to_json` writes such a case. When it is judged again, its sentences become part of
prompts, and its numbers are used to fit the weights of the rules. Therefore every sentence and name passes
`memory.text_limits`, and every number is finite. Unknown keys are dropped.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import AfterValidator, Field, FiniteFloat

# pydantic needs this TypedDict before Python 3.12
from typing_extensions import TypedDict

from memory.text_limits import check_tags, check_text

__all__ = ["CheckedCase", "JudgedCase"]


def _sentence(text: str) -> str:
    check_text("a sentence", text)
    return text


def _optional_sentence(text: str) -> str:
    return _sentence(text) if text else text


def _tags(tags: list[str]) -> list[str]:
    check_tags("a case", tuple(tags))
    return tags


Sentence = Annotated[str, AfterValidator(_sentence)]
OptionalSentence = Annotated[str, AfterValidator(_optional_sentence)]
Tags = Annotated[list[str], AfterValidator(_tags)]
Score = Annotated[FiniteFloat, Field(ge=0, le=100)]
NotNegative = Annotated[FiniteFloat, Field(ge=0)]


class JudgedEvidence(TypedDict):
    """One metric, measured for the whole group."""

    tool: Sentence
    metric: Sentence
    unit: OptionalSentence
    values: list[FiniteFloat | None]
    parts: list[list[Sentence]]
    sentences: list[OptionalSentence]  # empty if a tool finds no fault


class JudgedRule(TypedDict):
    """A retrieved rule with its predicate, if it has one, and the terms of its retrieval score."""

    id: Sentence
    text: Sentence
    tags: Tags
    metric: NotRequired[Sentence]
    comparison: NotRequired[Literal[">", "<"]]
    threshold: NotRequired[FiniteFloat]
    weight: NotRequired[NotNegative]
    uses: int
    successes: int
    similarity: FiniteFloat
    tag_overlap: FiniteFloat
    success_rate: FiniteFloat
    bonus: FiniteFloat
    psi: FiniteFloat


class JudgedPrototype(TypedDict):
    """A retrieved prototype."""

    id: Sentence
    similarity: FiniteFloat
    rationale: Sentence
    score: Score
    tags: Tags
    evidence: dict[Sentence, FiniteFloat]
    weights: dict[Sentence, FiniteFloat]


def _complete_predicate(rule: JudgedRule) -> JudgedRule:
    given = {"metric", "comparison", "threshold", "weight"} & rule.keys()
    if given and len(given) < 4:
        raise ValueError(
            f"a predicate needs metric, comparison, threshold and weight, not {sorted(given)} alone"
        )
    return rule


class JudgedCase(TypedDict):
    """Evidence, rules, prototypes and tags of the question; scores and true errors per hypothesis."""

    evidence: list[JudgedEvidence]
    rules: list[Annotated[JudgedRule, AfterValidator(_complete_predicate)]]
    prototypes: list[JudgedPrototype]
    tags: Tags
    scores: list[Score | None]
    errors_mm: list[NotNegative]


def _equal_lengths(case: JudgedCase) -> JudgedCase:
    count = len(case["errors_mm"])
    lengths = {"scores": len(case["scores"])}
    for item in case["evidence"]:
        for column in ("values", "parts", "sentences"):
            lengths[f"{column} of {item['metric']}"] = len(item[column])
    if wrong := [name for name, length in lengths.items() if length != count]:
        raise ValueError(f"errors_mm has {count} hypotheses and {wrong[0]} has {lengths[wrong[0]]}")
    return case


CheckedCase = Annotated[JudgedCase, AfterValidator(_equal_lengths)]
