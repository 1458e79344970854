"""What exploration keeps of a judged case, as a stranger's file must have it.

`agent.exploration.learning.Explored.to_json` writes it. Its sentences go into prompts whenever the case is judged again, and its
numbers into the fit of the weights, so every sentence and name passes `memory.text_limits` and every number is finite. A key
that is not named here is dropped.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import AfterValidator, Field, FiniteFloat

# pydantic reads no other before Python 3.12
from typing_extensions import TypedDict

from memory.text_limits import check_tags, check_text

__all__ = ["Judged", "JudgedCase"]


def _sentence(text: str) -> str:
    check_text("a sentence", text)
    return text


def _perhaps(text: str) -> str:
    """Of a hypothesis that nothing is wrong with, a tool says nothing."""
    return _sentence(text) if text else text


def _few(tags: list[str]) -> list[str]:
    check_tags("a case", tuple(tags))
    return tags


Sentence = Annotated[str, AfterValidator(_sentence)]
Remark = Annotated[str, AfterValidator(_perhaps)]
Tags = Annotated[list[str], AfterValidator(_few)]
Score = Annotated[FiniteFloat, Field(ge=0, le=100)]
NotNegative = Annotated[FiniteFloat, Field(ge=0)]


class JudgedEvidence(TypedDict):
    """One measurement of the whole group."""

    tool: Sentence
    metric: Sentence
    unit: Remark
    values: list[FiniteFloat | None]
    parts: list[list[Sentence]]
    sentences: list[Remark]


class JudgedRule(TypedDict):
    """A rule that the judge had, with its predicate if it has one and every term of its retrieval score."""

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
    """A prototype that the judge had."""

    id: Sentence
    similarity: FiniteFloat
    rationale: Sentence
    score: Score
    tags: Tags
    evidence: dict[Sentence, FiniteFloat]
    weights: dict[Sentence, FiniteFloat]


def _whole_predicate(rule: JudgedRule) -> JudgedRule:
    given = {"metric", "comparison", "threshold", "weight"} & rule.keys()
    if given and len(given) < 4:
        raise ValueError(
            f"a predicate needs metric, comparison, threshold and weight, not {sorted(given)} alone"
        )
    return rule


class JudgedCase(TypedDict):
    """Evidence, rules, prototypes and tags as the judge had them; scores and true errors by hypothesis."""

    evidence: list[JudgedEvidence]
    rules: list[Annotated[JudgedRule, AfterValidator(_whole_predicate)]]
    prototypes: list[JudgedPrototype]
    tags: Tags
    scores: list[Score | None]
    errors_mm: list[NotNegative]


def _of_one_group(case: JudgedCase) -> JudgedCase:
    count = len(case["errors_mm"])
    lengths = {"scores": len(case["scores"])}
    for item in case["evidence"]:
        for column in ("values", "parts", "sentences"):
            lengths[f"{column} of {item['metric']}"] = len(item[column])
    if wrong := [name for name, length in lengths.items() if length != count]:
        raise ValueError(f"errors_mm has {count} hypotheses and {wrong[0]} has {lengths[wrong[0]]}")
    return case


Judged = Annotated[JudgedCase, AfterValidator(_of_one_group)]
