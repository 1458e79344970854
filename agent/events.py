"""What happens during a critique, as typed events (`CritiqueAgent.critique_stream`).

Nodes write them with LangGraph's stream writer, so that `stream_mode="custom"` of the compiled graph gives the same
events, in LangGraph Studio too. There they are JSON, told apart by `kind`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from agent.types import GroupCritique, ReviewRequest, Revision

__all__ = [
    "AnswerReceived",
    "CritiqueEvent",
    "CritiqueFinished",
    "Emit",
    "NodeFinished",
    "NodeStarted",
    "QuestionSent",
    "ReviewRequested",
    "ScoresRevised",
    "ignore_event",
]


@dataclass(frozen=True)
class NodeStarted:
    node: str
    kind: Literal["node_started"] = "node_started"


@dataclass(frozen=True)
class NodeFinished:
    node: str
    ms: float
    kind: Literal["node_finished"] = "node_finished"


@dataclass(frozen=True)
class QuestionSent:
    """A request to the backend begins; a repair of a malformed reply is a request of its own."""

    task: str  # "tag", "score", "reflect" or "revise"
    backend: str
    pictures: int
    kind: Literal["question_sent"] = "question_sent"


@dataclass(frozen=True)
class AnswerReceived:
    """A request has ended, with a reply or without."""

    task: str
    ms: float
    tokens_in: int
    tokens_out: int
    problem: str  # why there is no valid answer; empty if there is one
    kind: Literal["answer_received"] = "answer_received"


@dataclass(frozen=True)
class ScoresRevised:
    revision: Revision
    kind: Literal["scores_revised"] = "scores_revised"


@dataclass(frozen=True)
class ReviewRequested:
    """A person is asked (`CritiqueSettings.interrupt_on`); the stream ends here unless there is a reviewer."""

    request: ReviewRequest
    kind: Literal["review_requested"] = "review_requested"


@dataclass(frozen=True)
class CritiqueFinished:
    """The last event of a critique."""

    critique: GroupCritique
    kind: Literal["critique_finished"] = "critique_finished"


CritiqueEvent = (
    NodeStarted
    | NodeFinished
    | QuestionSent
    | AnswerReceived
    | ScoresRevised
    | ReviewRequested
    | CritiqueFinished
)
Emit = Callable[[CritiqueEvent], None]


def ignore_event(event: CritiqueEvent) -> None:
    """For a question that nobody watches."""
