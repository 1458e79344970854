"""State and runtime context of the exploration graph.

The state is JSON: ids, counts, correlations. Cases, critiques and truth are in the resources. A node writes everything
that must outlive the process to the memory's database before it returns, so the graph needs no checkpointer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic.json_schema import SkipJsonSchema

# before Python 3.12 pydantic, and with it LangGraph, does not support typing.TypedDict
from typing_extensions import TypedDict

from agent.agent import CritiqueAgent
from agent.exploration.learning import Explored
from agent.tracing.records import Trace
from agent.types import GroupCritique
from hmr.types import Hypotheses, Labelled, Sample
from memory.retirement import RetirementPolicy

__all__ = [
    "ADMIT_RULE",
    "EXPLORATION",
    "ExplorationContext",
    "ExplorationResources",
    "ExplorationSettings",
    "ExplorationState",
    "Progress",
    "Propose",
]

Propose = Callable[[Sample], Hypotheses]
ADMIT_RULE = "admit_rule"
EXPLORATION = "exploration"  # case id, in the trace, of steps that concern many cases


@dataclass(frozen=True)
class ExplorationSettings:
    """Hyperparameters that the paper does not give."""

    success_srcc: float = 0.4  # tau
    batch: int = 16  # cases per round of mining
    min_gain: float = 0.002  # rise of mean rho on held-out cases that admits a rule
    retirement: RetirementPolicy = field(default_factory=RetirementPolicy)
    interrupt_on: tuple[str, ...] = ()  # "admit_rule": a person decides which rules are tried

    def __post_init__(self) -> None:
        if unknown := [point for point in self.interrupt_on if point != ADMIT_RULE]:
            raise ValueError(f"interrupt_on of an exploration takes {ADMIT_RULE}, not {unknown[0]!r}")


@dataclass(frozen=True)
class Progress:
    """Progress of an exploration after one more case."""

    done: int  # including cases of earlier runs
    total: int
    srcc: float | None
    running_srcc: float | None  # mean over the cases explored so far, including those of earlier runs


class ExplorationState(TypedDict):
    """The state of one exploration."""

    trace_id: str
    case_id: str
    batch: int  # number of the current batch
    todo: list[str]  # case ids of the current batch that are not explored yet
    srcc: float | None  # of the case just scored
    success: bool
    explored: Annotated[int, operator.add]  # cases of this run
    unscored: Annotated[int, operator.add]  # cases without a complete critique by the backend
    blocked_cases: Annotated[
        list[str], operator.add
    ]  # cases without any score in a trial or recount of rules
    mined: Annotated[list[str], operator.add]  # rule ids
    retired: Annotated[list[str], operator.add]
    admitted: list[str]
    reweighed: int
    held_out_srcc_before: float | None
    held_out_srcc_after: float | None
    replies: list[dict[str, Any]]  # of the last round of mining
    failures: Annotated[list[dict[str, Any]], operator.add]  # agent.types.QuestionFailure


@dataclass
class ExplorationResources:
    """The objects of one exploration; the only place in the agent with ground truth."""

    exploring_agent: CritiqueAgent  # retrieves rules by UCB
    frozen_agent: CritiqueAgent  # scores the held-out cases
    calibration: Mapping[str, Labelled]  # by case id
    held_out: Sequence[Labelled]
    propose: Propose
    settings: ExplorationSettings
    on_case: Callable[[Progress], None]
    run_id: str
    explored: dict[str, Explored] = field(default_factory=dict)  # by case id, including those of earlier runs
    current: tuple[Explored, GroupCritique] = field(init=False, repr=False)  # set by the node score
    held_out_groups: list[tuple[Labelled, Hypotheses]] = field(default_factory=list)
    held_out_baseline: list[Explored] = field(
        default_factory=list
    )  # the same, scored before any rule is admitted

    @property
    def trace(self) -> Trace:
        return self.exploring_agent.trace

    @property
    def batches(self) -> list[list[str]]:
        """Case ids by batch; they do not depend on where an earlier run stopped."""
        ids, size = list(self.calibration), self.settings.batch
        return [ids[start : start + size] for start in range(0, len(ids), size)]


@dataclass(frozen=True)
class ExplorationContext:
    """The runtime context of `agent.exploration.graph`."""

    resources: SkipJsonSchema[Any] = None  # an ExplorationResources, which `explore` provides
