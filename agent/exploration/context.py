"""What flows through the exploration graph, and what its nodes may reach for besides.

The state is JSON: ids, counts, correlations. Cases, critiques and truth stay on the resources; whatever must
outlive the process is in the memory's own database before a node returns, so the graph needs no checkpointer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic.json_schema import SkipJsonSchema

# pydantic, and with it LangGraph's own tools, reads no other before Python 3.12
from typing_extensions import TypedDict

from agent.agent import CritiqueAgent
from agent.exploration.learning import Explored
from agent.tracing.records import Trace
from agent.types import GroupCritique
from hmr.types import Hypotheses, Labelled, Sample
from memory.retirement import RetirementPolicy

__all__ = [
    "EXPLORATION",
    "ExplorationContext",
    "ExplorationResources",
    "ExplorationSettings",
    "ExplorationState",
    "Progress",
    "Propose",
]

Propose = Callable[[Sample], Hypotheses]
EXPLORATION = "exploration"  # the case that steps about many cases are traced under


@dataclass(frozen=True)
class ExplorationSettings:
    """Numbers the paper leaves out."""

    success_srcc: float = 0.4  # tau
    batch: int = 16  # cases between two rounds of mining
    min_gain: float = 0.002  # rise of mean rho on held-out cases that admits a rule
    retirement: RetirementPolicy = field(default_factory=RetirementPolicy)


@dataclass(frozen=True)
class Progress:
    """One case explored."""

    done: int  # with those of earlier runs
    total: int
    srcc: float | None
    running_srcc: float | None  # mean over the cases explored so far, those of earlier runs included


class ExplorationState(TypedDict):
    """One exploration's way through its batches."""

    trace_id: str
    case_id: str
    batch: int  # which one is open
    todo: list[str]  # case ids of the open batch that nobody has explored yet
    srcc: float | None  # of the case just judged
    success: bool
    explored: Annotated[int, operator.add]  # cases of this run
    unscored: Annotated[int, operator.add]  # cases that the backend gave no score at all
    held_up: Annotated[
        list[str], operator.add
    ]  # cases that got none when rules were tried or counted on them
    mined: Annotated[list[str], operator.add]  # rule ids
    retired: Annotated[list[str], operator.add]
    admitted: list[str]
    reweighed: int
    held_out_srcc_before: float | None
    held_out_srcc_after: float | None
    replies: list[dict[str, Any]]  # what the backend said when it was last asked to mine


@dataclass
class ExplorationResources:
    """The live parts of one exploration; the only place in the agent where truth lies."""

    exploring_agent: CritiqueAgent  # exploring: retrieves by UCB
    judge: CritiqueAgent  # frozen: for the held-out cases
    calibration: Mapping[str, Labelled]  # by case id
    held_out: Sequence[Labelled]
    propose: Propose
    settings: ExplorationSettings
    on_case: Callable[[Progress], None]
    run_id: str
    explored: dict[str, Explored] = field(default_factory=dict)  # by case id, earlier runs' too
    open_case: tuple[Explored, GroupCritique] | None = None
    trials: list[tuple[Labelled, Hypotheses]] = field(default_factory=list)  # held-out cases, their groups
    tried: list[Explored] = field(default_factory=list)  # the same, as judged before anything was admitted

    @property
    def trace(self) -> Trace:
        return self.exploring_agent.trace

    @property
    def batches(self) -> list[list[str]]:
        """Case ids by batch: the same for the same cases, wherever an earlier run was killed."""
        ids, size = list(self.calibration), self.settings.batch
        return [ids[start : start + size] for start in range(0, len(ids), size)]


@dataclass(frozen=True)
class ExplorationContext:
    """The runtime context of `agent.exploration.graph`."""

    resources: SkipJsonSchema[Any]  # an ExplorationResources: what is alive has no schema
