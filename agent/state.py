"""The state of the critique graph, and what it accepts and returns: JSON and content hashes only.

Images and tensors are in the resources (`agent/context.py`), under the hashes found here, because a checkpoint writes
the whole state at every step. Hypotheses are keyed by their index as text ("0", "1", ...), because keys of JSON are
text. These dictionaries have a merging reducer, so that a revision replaces a score.
"""

from __future__ import annotations

from typing import Annotated, Any

# before Python 3.12 pydantic, and with it LangGraph, does not support typing.TypedDict
from typing_extensions import TypedDict

__all__ = [
    "CritiqueInput",
    "CritiqueOutput",
    "CritiqueState",
    "OpeningInput",
    "append",
    "merge",
]

Json = dict[str, Any]


def merge(old: Json | None, new: Json | None) -> Json:
    """The reducer of what is keyed by hypothesis: a new entry replaces the old one. None clears all."""
    return {} if new is None else {**(old or {}), **new}


def add_counts(old: dict[str, int] | None, new: dict[str, int] | None) -> dict[str, int]:
    """The reducer of counts: sums by name. None clears them."""
    if new is None:
        return {}
    before = old or {}
    return {name: before.get(name, 0) + new.get(name, 0) for name in {**before, **new}}


def append(old: list[Json] | None, new: list[Json] | None) -> list[Json]:
    """The reducer of lists. None clears them."""
    return [] if new is None else [*(old or []), *new]


class CritiqueInput(TypedDict, total=False):
    """What names a critique (`agent/nodes/open_case.py`). Without resources in the context, `photo` is required."""

    photo: str  # path of a photograph
    box: list[float]  # x0, y0, x1, y1 in its pixels; without it, the person with the largest box is judged
    samples: int  # hypotheses of the policy, 8 by default
    backend: str  # a specification as of --backend, "embedded" by default
    detector: str  # as of --detector
    memory: str  # folder of an explored memory; without it, the seed rules
    policy: str  # folder of a policy; without it, the shipped one
    seed: int  # of the hypotheses
    trace_id: str  # of records and exports; a new one by default


class OpeningInput(CritiqueInput, total=False):
    """What the first node sees: an input, and the request of an earlier critique in the same thread."""

    request: CritiqueInput


class CritiqueOutput(TypedDict):
    """The verdict on one group."""

    trace_id: str
    case_id: str  # the sample's opaque id
    scores: Annotated[dict[str, float | None], merge]
    comments: Annotated[dict[str, str], merge]
    reasons: Annotated[dict[str, str], merge]  # why a score is None
    tags: list[str]
    rank_dispersion: float  # mean standard deviation of a rank over the label orders, before revisions
    degeneracy: (
        str  # why the scores say nothing about the hypotheses (agent.scoring.degenerate); empty if they do
    )
    evidence: list[Json]  # agent.types.Evidence, one entry per metric
    score_evidence: list[Json]  # evidence that is computed from the scores
    reobserved_evidence: list[Json]  # of a second detection, because a score is uncertain
    missing: list[Json]  # agent.types.Missing
    rules: list[Json]
    prototypes: list[Json]
    revisions: list[Json]  # agent.types.Revision; their number bounds the loop
    corrections: list[Json]  # agent.types.Correction
    failures: Annotated[list[Json], append]  # agent.types.QuestionFailure, of all nodes
    questions: Annotated[dict[str, int], add_counts]  # agent.types.QuestionCounts, of all nodes
    error_estimate: Json | None  # agent.types.ErrorEstimate
    unmeasured: list[str]  # metrics without which there is no estimate
    detector_confidence: float | None


class CritiqueState(CritiqueOutput):
    """The state of one group's critique."""

    request: CritiqueInput
    case: str  # content hash of sample and group
    views: list[str]  # content hashes of overlay and side view, by hypothesis; empty for a text-only backend
    rank_std: dict[str, float]  # as `rank_dispersion`, by hypothesis; 0 after a revision
    evidence_calls: list[Json]  # agentic mode: the calls of every label order with arguments and results
    close_ups: dict[str, str]  # content hashes of the pictures of uncertain hypotheses
    uncertain: dict[str, str]  # why a score is uncertain
    replies: list[Json]  # of the last node that asked the backend
