"""The state of the critique graph: JSON and content hashes only.

Images and tensors are in the resources (`agent/context.py`), under the hashes found here, because a checkpoint writes
the whole state at every step. Hypotheses are keyed by their index as text ("0", "1", ...), because keys of JSON are
text. These dictionaries have a merging reducer, so that a revision replaces a score.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any

# before Python 3.12 pydantic, and with it LangGraph, does not support typing.TypedDict
from typing_extensions import TypedDict

__all__ = ["CritiqueState", "add_counts", "merge"]

Json = dict[str, Any]


def merge(old: Json, new: Json) -> Json:
    """The reducer of what is keyed by hypothesis: a new entry replaces the old one."""
    return {**old, **new}


def add_counts(old: dict[str, int], new: dict[str, int]) -> dict[str, int]:
    """The reducer of counts: sums by name."""
    return {name: old.get(name, 0) + new.get(name, 0) for name in {**old, **new}}


class CritiqueState(TypedDict):
    """The state of one group's critique."""

    trace_id: str
    case_id: str  # the sample's opaque id
    case: str  # content hash of sample and group
    views: list[str]  # content hashes of overlay and side view, by hypothesis; empty for a text-only backend
    evidence: list[Json]  # agent.types.Evidence, one entry per metric
    missing: list[Json]  # agent.types.Missing
    tags: list[str]
    rules: list[Json]
    prototypes: list[Json]
    scores: Annotated[dict[str, float | None], merge]
    comments: Annotated[dict[str, str], merge]
    reasons: Annotated[dict[str, str], merge]  # why a score is None
    rank_dispersion: float  # mean standard deviation of a rank over the label orders, before revisions
    rank_std: dict[str, float]  # the same by hypothesis; 0 after a revision
    score_evidence: list[Json]  # evidence that is computed from the scores
    extra_evidence: list[Json]  # evidence measured again because a score is uncertain
    evidence_calls: list[Json]  # agentic mode: the calls of every label order with arguments and results
    close_ups: dict[str, str]  # content hashes of the pictures of uncertain hypotheses
    error_estimate: Json | None  # agent.types.ErrorEstimate
    detector_confidence: float | None
    doubts: dict[str, str]  # why a score is uncertain
    revisions: list[Json]  # agent.types.Revision; their number bounds the loop
    replies: list[Json]  # of the last node that asked the backend
    failures: Annotated[list[Json], operator.add]  # agent.types.QuestionFailure, of all nodes
    questions: Annotated[dict[str, int], add_counts]  # agent.types.QuestionCounts, of all nodes
