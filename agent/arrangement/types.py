"""The data of a critique of several people: an arrangement, what tools measure of it, and the verdict.

People are numbered in the order in which they are given. Nothing here can hold ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from agent.tools.parts import capitalise
from agent.types import GroupCritique, Missing
from hmr.body.model import Body
from hmr.types import Camera, Detection, Frame, Posed

__all__ = [
    "Arrangement",
    "ArrangementCritique",
    "ArrangementEvidence",
    "ArrangementScorer",
    "ArrangementTool",
    "ArrangementVerdict",
    "PeopleCritique",
    "PlacedPeople",
]

Json = dict[str, Any]


@dataclass(frozen=True)
class Arrangement:
    """One hypothesis of each person, all in the frame of one camera."""

    people: tuple[int, ...]  # numbers of the people; those without a score are left out
    hypotheses: tuple[int, ...]  # the hypothesis of each of `people`

    def __post_init__(self) -> None:
        if len(self.people) != len(self.hypotheses):
            raise ValueError(
                f"an arrangement has one hypothesis per person, not {len(self.hypotheses)} for "
                f"{len(self.people)} people"
            )


@dataclass(frozen=True)
class PlacedPeople:
    """The bodies of an arrangement, posed and rendered once, so that all tools measure the same input."""

    body: Body
    posed: Posed  # batch shape (people,), in the frame of `camera`
    camera: Camera  # of the photograph
    view: Camera  # the square crop around all people through which `frame` was rendered
    frame: Frame  # one render per person, each without the others
    detections: tuple[Detection | None, ...]  # None: nothing is known of this person

    def __len__(self) -> int:
        return len(self.detections)

    def __getitem__(self, rows: Sequence[int]) -> PlacedPeople:
        """The bodies of `rows` only, in that order."""
        index, chosen = torch.tensor(rows), np.asarray(rows)
        posed = Posed(self.posed.vertices_cam_m[index], self.posed.joints_cam_m[index])
        frame = Frame(*(array[chosen] for array in vars(self.frame).values()))
        detections = tuple(self.detections[row] for row in rows)
        return PlacedPeople(self.body, posed, self.camera, self.view, frame, detections)


@dataclass(frozen=True)
class ArrangementEvidence:
    """One measurement of one arrangement. Lower is better; None where it could not be taken."""

    tool: str
    metric: str  # the value's name with its unit, such as "interpenetration_mm"
    unit: str
    value: float | None
    people: tuple[int, ...]  # rows of those at fault, worst first; empty where nothing is wrong
    sentence: str  # names people as {0}, {1}, ... by row

    def for_people(self, numbers: Sequence[int]) -> ArrangementEvidence:
        """With the people's numbers instead of rows, in `people` and in the sentence."""
        return ArrangementEvidence(
            self.tool, self.metric, self.unit, self.value,
            tuple(numbers[row] for row in self.people),
            capitalise(self.sentence.format(*(f"person {number}" for number in numbers))),
        )  # fmt: skip


@runtime_checkable
class ArrangementTool(Protocol):
    """Measures one relation between people; passes tests/contracts/test_arrangement_tools.py."""

    name: str

    def measure(self, people: PlacedPeople) -> ArrangementEvidence: ...


@dataclass(frozen=True)
class ArrangementVerdict:
    score: float  # 0 to 100
    comment: str


@runtime_checkable
class ArrangementScorer(Protocol):
    """Turns the evidence on one arrangement into a score and a comment. A backend with a language model can take the
    place of `agent.arrangement.scoring.score_evidence`."""

    def __call__(self, evidence: Sequence[ArrangementEvidence]) -> ArrangementVerdict: ...


@dataclass(frozen=True)
class ArrangementCritique:
    """The verdict on one arrangement."""

    arrangement: Arrangement
    score: float  # 0 to 100, of the relations between the people alone
    comment: str
    evidence: tuple[ArrangementEvidence, ...]
    missing: tuple[Missing, ...]  # tools that failed
    mean_score: float  # of the chosen hypotheses, each among those of its person

    def to_json(self) -> Json:
        return {
            "people": list(self.arrangement.people),
            "hypotheses": list(self.arrangement.hypotheses),
            "score": self.score,
            "comment": self.comment,
            "mean_score": self.mean_score,
            "evidence": [dict(vars(item)) for item in self.evidence],
            "missing": [dict(vars(item)) for item in self.missing],
        }


@dataclass(frozen=True)
class PeopleCritique:
    """The verdict on all people of a photograph."""

    people: tuple[GroupCritique, ...]
    arrangements: tuple[ArrangementCritique, ...]  # best first; empty if fewer than two people have a score

    @property
    def best(self) -> ArrangementCritique | None:
        return self.arrangements[0] if self.arrangements else None
