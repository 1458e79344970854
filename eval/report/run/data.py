"""The content of a report. Pictures are encoded as soon as they are drawn: a report may have thousands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from agent.agreement import group_spearman
from agent.types import GroupCritique
from eval.benchmark.intervals import Interval
from eval.benchmark.tables import Row
from eval.critics.agreement import CriticAgreement
from eval.report.trace.requests import Request
from memory.rule import Rule

__all__ = [
    "Change", "Chart", "HeatMap", "HypothesisPictures", "Line", "PersonPictures", "Progress", "ReportCase",
    "ReportData",
]  # fmt: skip


@dataclass(frozen=True)
class HypothesisPictures:
    """One body as WebP files. `layer` is transparent beside the body and lies over the case's photograph."""

    layer: bytes
    side: bytes


@dataclass(frozen=True)
class ReportCase:
    """One scored group.

    photo: the crop of the person as WebP.
    pictures: one per hypothesis, in the order of the critique's scores.
    errors_mm: true errors by hypothesis, which the critic did not see; None without truth.
    replies: of the critic's backend, in the order in which they came.
    """

    title: str
    critique: GroupCritique
    photo: bytes
    pictures: tuple[HypothesisPictures, ...]
    errors_mm: tuple[float, ...] | None = None
    replies: tuple[Request, ...] = ()

    @property
    def spearman(self) -> float | None:
        """Between scores and negative errors; None without truth or with fewer than three scores."""
        return None if self.errors_mm is None else group_spearman(self.critique.scores, self.errors_mm)

    @property
    def excess_mm(self) -> float | None:
        """How much larger the error of the best-scored hypothesis is than the smallest of the scored ones."""
        if self.errors_mm is None:
            return None
        known = [
            (score, error)
            for score, error in zip(self.critique.scores, self.errors_mm, strict=True)
            if score is not None
        ]
        if not known:
            return None
        picked = max(known, key=lambda pair: pair[0])[1]
        return picked - min(error for _, error in known)


@dataclass(frozen=True)
class Change:
    """Means of one measure over people, before and after alignment, and the paired difference."""

    part: str  # which people
    measure: str
    people: int
    before: float
    after: float
    difference: Interval | None  # None for few people


@dataclass(frozen=True)
class PersonPictures:
    """One body before and after alignment."""

    title: str
    photo: bytes
    before: HypothesisPictures
    after: HypothesisPictures
    captions: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class HeatMap:
    """The body from the front and from the back, coloured by the error of its joints. limits_mm: of the colours, equal
    in all heat maps of a report. worst: the joints with the largest errors."""

    title: str
    picture: bytes
    limits_mm: tuple[float, float]
    worst: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Line:
    """One series of a chart. `key` is the variant, which decides on the colour; `labels` name the points."""

    name: str
    key: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """An interactive chart: points, or curves over the steps of a training."""

    title: str
    caption: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    is_scatter: bool = False  # points with the diagonal, on equal axes
    hover: tuple[str, str] = (
        "base",
        "",
    )  # names of x and y at a point; the second defaults to the line's name


@dataclass(frozen=True)
class Progress:
    """Of a run that has not ended: the number of the current stage, its name, and how many stages there are."""

    number: int
    title: str
    count: int


@dataclass(frozen=True)
class ReportData:
    """The content of a report. The page has no section for an empty field."""

    title: str
    facts: Mapping[str, str]  # seeds, hashes, wall time, peak memory, in the order to show
    versions: Mapping[str, str]
    _: KW_ONLY
    rows: tuple[Row, ...] = ()  # eval.benchmark.tables.compare
    charts: tuple[Chart, ...] = ()
    heat_maps: tuple[HeatMap, ...] = ()
    critic: CriticAgreement | None = None
    changes: tuple[Change, ...] = ()  # of measures without truth, before and after alignment
    people: tuple[PersonPictures, ...] = ()
    cases: tuple[ReportCase, ...] = ()
    rules: tuple[Rule, ...] = ()
    protocol: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()  # what a reader must know to interpret the numbers
    progress: Progress | None = None  # None: the run has ended
