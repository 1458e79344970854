"""The data of the critique agent: the case that a tool measures, the evidence it returns, and the verdict on a group.

Nothing here can hold ground truth: a `Case` is made from a `Sample`, a group of hypotheses and a detection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from common.failures import ScoresMissing
from hmr.body.model import Body
from hmr.types import Camera, Detection, Frame, Hypotheses, Posed, Renderer, Sample
from memory.prototype_memory import Prototype
from memory.rule_memory import RetrievedRule

__all__ = [
    "BackendUnavailable",
    "Case",
    "Correction",
    "CritiqueTool",
    "ErrorEstimate",
    "Evidence",
    "FailureKind",
    "GroupCritique",
    "Missing",
    "Need",
    "QuestionCounts",
    "QuestionFailure",
    "RetrievedPrototype",
    "ReviewAnswer",
    "ReviewNeeded",
    "ReviewPoint",
    "ReviewRequest",
    "Revision",
    "lost_questions",
    "require_scores",
    "unavailable_reason",
    "why_unscored",
]

Json = dict[str, Any]
Need = Literal["keypoints", "mask", "joints"]
FailureKind = Literal["malformed", "unanswerable", "unavailable"]
ReviewPoint = Literal["revise", "scores", "low_agreement"]
MAX_REASONS = 6  # in a sentence about lost questions


@dataclass(frozen=True)
class Case:
    """One sample and its group, posed and rendered once, so that all tools measure the same input."""

    sample: Sample
    hypotheses: Hypotheses
    body: Body
    posed: Posed  # batch shape (G,)
    view: Camera  # the square crop around the person through which `frame` was rendered
    frame: Frame  # G renders
    detection: Detection | None  # None: no detector, and tools that need one are skipped

    def __len__(self) -> int:
        return len(self.hypotheses)

    @staticmethod
    @torch.no_grad()
    def of(
        sample: Sample,
        hypotheses: Hypotheses,
        body: Body,
        renderer: Renderer,
        view: Camera,
        detection: Detection | None = None,
    ) -> Case:
        """The group posed by `body` and rendered through `view`."""
        posed = body(hypotheses.params)
        frame = renderer.render(posed.vertices_cam_m.numpy(), body.faces.numpy(), view)
        return Case(sample, hypotheses, body, posed, view, frame, detection)


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
    def unmeasured(tool: str, metric: str, unit: str, count: int, sentence: str) -> Evidence:
        """Evidence without values, for a group that the tool cannot measure; `sentence` is the reason."""
        return Evidence(tool, metric, unit, (None,) * count, ((),) * count, (sentence,) * count)

    def to_json(self) -> Json:
        return dict(vars(self))

    @staticmethod
    def from_json(item: Mapping[str, Any]) -> Evidence:
        return Evidence(
            tool=item["tool"],
            metric=item["metric"],
            unit=item["unit"],
            values=tuple(item["values"]),
            parts=tuple(map(tuple, item["parts"])),
            sentences=tuple(item["sentences"]),
        )


@dataclass(frozen=True)
class Missing:
    """A tool that gave no evidence, and why: it failed (`broken`), or it cannot measure this photograph."""

    tool: str
    reason: str
    broken: bool = False


@dataclass(frozen=True)
class QuestionFailure:
    """Why a question to the backend has no answer.

    A malformed reply and an unanswerable question are results: the group's scores are None because of them. An
    unavailable backend (a server that is down, a spent budget, any other exception) says nothing about the group, and
    the question should be asked again later.
    """

    kind: FailureKind
    reason: str
    task: str = ""  # of the question: "tag", "score", "reflect", "revise" or "mine"


@dataclass(frozen=True)
class QuestionCounts:
    """How many questions to the backend were asked and answered, how many of the answers needed a repair, and what the
    replies took.

    A question that is lost changes scores: a missing label order or revision is left out, and missing tags retrieve
    other rules. A reply from a cache took nothing.
    """

    asked: int = 0
    answered: int = 0
    repaired: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    # microseconds in which the backend replied, of all requests together; equal critiques need not take as long
    reply_us: int = field(default=0, compare=False)

    @property
    def lost(self) -> int:
        return self.asked - self.answered

    def __add__(self, other: QuestionCounts) -> QuestionCounts:
        return QuestionCounts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def to_json(self) -> Json:
        return {**vars(self), "lost": self.lost}

    @staticmethod
    def from_json(item: Mapping[str, Any]) -> QuestionCounts:
        return QuestionCounts(**{name: value for name, value in item.items() if name != "lost"})


class BackendUnavailable(ScoresMissing):
    """A question of a critique was not answered because the backend is unavailable; the message is the reason."""


class ReviewNeeded(ValueError):
    """A person was to review the scores of a critique, and nobody was there."""


def unavailable_reason(failures: Sequence[QuestionFailure]) -> str:
    """The reason of the last failure of kind "unavailable"; empty if there is none."""
    return next((failure.reason for failure in reversed(failures) if failure.kind == "unavailable"), "")


def lost_questions(counts: QuestionCounts, failures: Sequence[QuestionFailure]) -> str:
    """A sentence about the questions that got no answer; empty if all did."""
    if not counts.lost:
        return ""
    repaired = f" ({counts.repaired} after a repair)" if counts.repaired else ""
    answered = f"{counts.answered} of {counts.asked} questions were answered{repaired}"
    return f"{answered}; lost {_tasks_by_reason(failures)}"


def _tasks_by_reason(failures: Sequence[QuestionFailure], known_reason: str = "") -> str:
    """Each reason once, the most frequent first, after the tasks of its questions; `known_reason` is not repeated."""
    tasks: dict[str, Counter[str]] = {}
    for failure in failures:
        tasks.setdefault(failure.reason, Counter())[failure.task] += 1
    found = sorted(tasks.items(), key=lambda item: -item[1].total())
    parts = [
        ", ".join(f"{task} x {count}" if count > 1 else task for task, count in counts.items())
        + (f": {reason}" if reason != known_reason else "")
        for reason, counts in found[:MAX_REASONS]
    ]
    others = sum(counts.total() for _, counts in found[MAX_REASONS:])
    return "; ".join([*parts, f"{others} for other reasons"] if others else parts)


@dataclass(frozen=True)
class ErrorEstimate:
    """The expected pelvis-aligned MPJPE of every hypothesis in mm, with an interval (`agent.expected_error`)."""

    expected_mm: tuple[float, ...]
    low_mm: tuple[float, ...]
    high_mm: tuple[float, ...]
    confidence_level: (
        float  # probability that an error is between low and high, on cases like those of the fit
    )
    coverage: float | None  # share that was, on cases that were held out of the fit
    none_fits: (
        bool  # even the best body is expected to be further off than the policy's own nearly always are
    )

    def to_json(self) -> Json:
        return dict(vars(self))

    @staticmethod
    def from_json(item: Mapping[str, Any]) -> ErrorEstimate:
        return ErrorEstimate(
            expected_mm=tuple(item["expected_mm"]),
            low_mm=tuple(item["low_mm"]),
            high_mm=tuple(item["high_mm"]),
            confidence_level=item["confidence_level"],
            coverage=item["coverage"],
            none_fits=item["none_fits"],
        )


@runtime_checkable
class CritiqueTool(Protocol):
    """Measures one property of every hypothesis of a group; passes tests/contracts/test_tools.py.

    A tool may also say the name of its metric, `metric: str`.
    """

    name: str
    needs: frozenset[Need]

    def measure(self, case: Case) -> Evidence:
        """One value per hypothesis, lower being better; None for a hypothesis that it cannot measure."""
        ...


@dataclass(frozen=True)
class RetrievedPrototype:
    prototype: Prototype
    similarity: float  # cosine of the image embeddings


@dataclass(frozen=True)
class Revision:
    """One revision of scores: the hypotheses, their scores before and after, and the reason."""

    hypotheses: tuple[int, ...]
    before: tuple[float | None, ...]
    after: tuple[float | None, ...]
    reason: str
    evidence_used: tuple[str, ...] = ()  # metrics measured after scoring, and the close-ups shown

    @staticmethod
    def from_json(item: Mapping[str, Any]) -> Revision:
        return Revision(
            tuple(item["hypotheses"]),
            tuple(item["before"]),
            tuple(item["after"]),
            item["reason"],
            tuple(item["evidence_used"]),
        )


@dataclass(frozen=True)
class ReviewRequest:
    """What a person is shown before scores are revised or accepted (`agent/nodes/review.py`)."""

    point: ReviewPoint
    scores: tuple[float | None, ...]
    comments: tuple[str, ...]
    uncertain: Mapping[int, str]  # hypothesis -> why its score is uncertain
    rank_dispersion: float
    refused: str = ""  # why the last answer is not valid

    def to_json(self) -> Json:
        return {**vars(self), "uncertain": {str(j): reason for j, reason in self.uncertain.items()}}

    @staticmethod
    def from_json(item: Mapping[str, Any]) -> ReviewRequest:
        return ReviewRequest(
            point=item["point"],
            scores=tuple(item["scores"]),
            comments=tuple(item["comments"]),
            uncertain={int(j): reason for j, reason in item["uncertain"].items()},
            rank_dispersion=item["rank_dispersion"],
            refused=item.get("refused", ""),
        )


@dataclass(frozen=True)
class ReviewAnswer:
    """A person's answer to a `ReviewRequest`; an empty one accepts everything as it is."""

    scores: Mapping[int, float] = field(default_factory=dict)  # hypothesis -> score from 0 to 100
    comments: Mapping[int, str] = field(default_factory=dict)
    rule: str = ""  # a critique rule in one sentence

    def to_json(self) -> Json:
        return {
            "scores": {str(j): score for j, score in self.scores.items()},
            "comments": {str(j): comment for j, comment in self.comments.items()},
            "rule": self.rule,
        }


@dataclass(frozen=True)
class Correction:
    """Scores that a person replaced, and the rule that they wrote, if any."""

    hypotheses: tuple[int, ...]
    before: tuple[float | None, ...]
    after: tuple[float, ...]
    rule: str = ""

    @staticmethod
    def from_json(item: Mapping[str, Any]) -> Correction:
        return Correction(
            tuple(item["hypotheses"]), tuple(item["before"]), tuple(item["after"]), item["rule"]
        )


@dataclass(frozen=True)
class GroupCritique:
    """The verdict on one group: a score from 0 to 100 per hypothesis, or None where scoring failed."""

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
    reasons: tuple[str, ...] = ()  # why a score is None, one per hypothesis without a score
    failures: tuple[QuestionFailure, ...] = ()  # of all questions, in the order in which they were asked
    trace_id: str = ""
    questions: QuestionCounts = QuestionCounts()
    errors: ErrorEstimate | None = (
        None  # None: no model was fitted for this detector, or it lacks a measurement
    )
    unmeasured: tuple[str, ...] = ()  # metrics that the model of errors needs and no hypothesis has
    detector_confidence: float | None = None  # that there is a person; None without a detection
    corrections: tuple[Correction, ...] = ()  # by a person, in order
    degeneracy: str = ""  # why the scores say nothing about the hypotheses (agent.scoring.degenerate)


def require_scores(critiques: Sequence[GroupCritique]) -> None:
    """Raises ScoresMissing, with `why_unscored`, if there are groups and no hypothesis of any has a score."""
    if critiques and all(score is None for critique in critiques for score in critique.scores):
        raise ScoresMissing(why_unscored(critiques))


def why_unscored(critiques: Sequence[GroupCritique]) -> str:
    """A line about groups without any score: the first reason, and the questions that were lost."""
    reason = next((reason for critique in critiques for reason in critique.reasons), "no reason known")
    counts = sum((critique.questions for critique in critiques), QuestionCounts())
    failures = [failure for critique in critiques for failure in critique.failures]
    tasks = _tasks_by_reason(failures, known_reason=reason)
    lost = f" ({counts.lost} of {counts.asked} questions lost: {tasks})" if counts.lost else ""
    return " ".join(f"no hypothesis got a score: {reason}{lost}".split())
