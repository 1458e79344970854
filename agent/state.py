"""What flows through the critique graph: JSON and content hashes, nothing heavy.

Images and tensors stay on the resources (`agent/context.py`), keyed by the hashes found here; one megabyte in the
state would be written again at every checkpoint. Hypotheses are keyed by their index as text ("0", "1", ...),
because JSON has no other keys, and a dict-merge reducer lets a revision replace a score where a list would
duplicate it.
"""

from __future__ import annotations

from typing import Annotated, Any

# pydantic, and with it LangGraph's own tools, reads no other before Python 3.12
from typing_extensions import TypedDict

__all__ = ["CritiqueState", "merge"]

Json = dict[str, Any]


def merge(old: Json, new: Json) -> Json:
    """The reducer of everything keyed by hypothesis: the newer entry wins."""
    return {**old, **new}


class CritiqueState(TypedDict):
    """One group's way from photograph to verdict."""

    trace_id: str
    case_id: str  # the sample's opaque id
    case: str  # content hash of sample and group: the key of the case on the resources
    views: list[
        str
    ]  # content hashes of overlay and side view, by hypothesis; empty for a backend without eyes
    evidence: list[Json]  # agent.types.Evidence, one entry a metric
    missing: list[Json]  # agent.types.Missing
    tags: list[str]
    rules: list[Json]
    prototypes: list[Json]
    scores: Annotated[dict[str, float | None], merge]
    comments: Annotated[dict[str, str], merge]
    reasons: Annotated[dict[str, str], merge]  # why a score is None
    rank_dispersion: float  # mean standard deviation of a rank over the label orders, as first scored
    rank_std: dict[str, float]  # the same by hypothesis; 0 once a revision has settled it
    second_look: list[Json]  # evidence taken once there were scores
    bought: list[Json]  # evidence taken because a score was in doubt
    close_ups: dict[str, str]  # content hashes of the pictures drawn for the doubts at hand
    doubts: dict[str, str]
    revisions: list[Json]  # agent.types.Revision; its length bounds the loop
    replies: list[Json]  # of the last node that asked the backend
