"""What the critique agent passes around: the case a tool looks at, the evidence it gives, the verdict on a group.

Nothing here can hold truth: a `Case` is made from a `Sample`, a group of hypotheses and what a detector saw.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from hmr.body.model import Body
from hmr.types import Camera, Detection, Frame, Hypotheses, Posed, Sample
from memory.prototypes import Prototype
from memory.rules import RetrievedRule

__all__ = [
    "Case",
    "CritiqueTool",
    "Evidence",
    "GroupCritique",
    "Missing",
    "Need",
    "RetrievedPrototype",
    "Revision",
]

Need = Literal["keypoints", "mask", "joints"]


@dataclass(frozen=True)
class Case:
    """One sample and its group, posed and rendered once, so that every tool looks at the same thing."""

    sample: Sample
    hypotheses: Hypotheses
    body: Body
    posed: Posed  # batch shape (G,)
    view: Camera  # the square crop about the person through which `frame` was rendered
    frame: Frame  # G renders
    detection: Detection | None  # None: no detector at hand, tools that need one are skipped

    def __len__(self) -> int:
        return len(self.hypotheses)


@dataclass(frozen=True)
class Evidence:
    """One measurement of a whole group. Lower is always better; None where it could not be taken."""

    tool: str
    metric: str  # the value's name with its unit, such as "imbalance_mm"
    unit: str  # "px", "deg", "mm", "1"
    values: tuple[float | None, ...]
    parts: tuple[tuple[str, ...], ...]  # body parts at fault, worst first; empty where nothing is wrong
    sentences: tuple[str, ...]

    @staticmethod
    def silent(tool: str, metric: str, unit: str, count: int, sentence: str) -> Evidence:
        """Of a group of which the measurement can say nothing, and why."""
        return Evidence(tool, metric, unit, (None,) * count, ((),) * count, (sentence,) * count)


@dataclass(frozen=True)
class Missing:
    """A tool that gave no evidence, and why: it broke, or had nothing to say of this photograph."""

    tool: str
    reason: str
    broken: bool = False


@runtime_checkable
class CritiqueTool(Protocol):
    """Measures one thing about every hypothesis of a group; passes tests/contracts/test_tools.py."""

    name: str
    needs: frozenset[Need]

    def measure(self, case: Case) -> Evidence: ...


@dataclass(frozen=True)
class RetrievedPrototype:
    prototype: Prototype
    similarity: float  # cosine of the image embeddings


@dataclass(frozen=True)
class Revision:
    """One change of mind: which hypotheses, from what to what, and what spoke for it."""

    hypotheses: tuple[int, ...]
    before: tuple[float | None, ...]
    after: tuple[float | None, ...]
    reason: str
    looked_at: tuple[str, ...] = ()  # the metrics of the evidence that was bought for it, the close-ups shown


@dataclass(frozen=True)
class GroupCritique:
    """The verdict on one group: a score from 0 to 100 for each hypothesis, or None where judging failed."""

    sample_id: str
    scores: tuple[float | None, ...]
    comments: tuple[str, ...]
    tags: tuple[str, ...]
    rank_dispersion: float  # mean standard deviation of a hypothesis' rank over permutations, in ranks
    evidence: tuple[Evidence, ...]
    missing: tuple[Missing, ...]
    rules: tuple[RetrievedRule, ...]
    prototypes: tuple[RetrievedPrototype, ...]
    revisions: tuple[Revision, ...] = ()
    reasons: tuple[str, ...] = field(default=())  # why a score is None, one for each failed hypothesis
    trace_id: str = ""
