"""The exploration phase: score cases with known truth and learn rules and prototypes from them (method section 2).

For each case: score the group; count the use of its rules, as a success if Spearman's rho with the true errors exceeds
tau; add a representative hypothesis to the prototypes, with each metric's agreement with the truth. After each batch:
mine one or two rules from the discrepancy, into quarantine, and retire rules that fail repeatedly. At the end, on
held-out cases: admit the rules that help, and fit the weights. See `agent/exploration/graph.py` for the order.

The memory's database records finished cases and steps, so a killed exploration resumes where it stopped: at most the
current group is lost, nothing counts twice, and the fit uses all cases, including those of earlier processes. For that
the database keeps the evidence and true errors of cases; they are labelled lab cases. Cases that could not be scored or
tried because the backend failed are left to a later run.

Only `agent/exploration/` has access to truth. Left out: concurrent cases. The rules retrieved for a case depend on the
counts from the cases before it, and the same cases have to give the same memory.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from agent.agent import CritiqueAgent
from agent.exploration.context import (
    EXPLORATION,
    ExplorationContext,
    ExplorationResources,
    ExplorationSettings,
    Progress,
    Propose,
)
from agent.exploration.graph import build_exploration_graph, exploration_graph, recursion_limit
from agent.exploration.nodes import mean_srcc
from agent.types import QuestionFailure
from hmr.types import Labelled

__all__ = ["ExplorationReport", "ExplorationSettings", "Progress", "RuleReviewer", "explore"]


RuleReviewer = Callable[[Sequence[dict[str, Any]]], list[str]]  # rules as JSON -> ids of those that are tried


@dataclass(frozen=True)
class ExplorationReport:
    """The result of an exploration. Values of rho are means over cases, None if no case had a ranking."""

    cases: int  # explored in this run
    skipped: int  # explored by an earlier run
    unscored: int  # cases without a complete critique by the backend: a later run asks for them again
    blocked_cases: tuple[
        str, ...
    ]  # cases without any score in a trial of rules: a later run repeats the trial
    srcc: float | None  # over all cases explored so far
    held_out_srcc_before: float | None
    held_out_srcc_after: float | None
    mined: tuple[str, ...]  # rule ids, like the next two, of this run
    admitted: tuple[str, ...]
    retired: tuple[str, ...]
    reweighed: int  # rules with a newly fitted weight
    failures: tuple[QuestionFailure, ...]  # of all questions of this run, in order

    def to_json(self) -> dict[str, Any]:
        """All fields but the failures."""
        return {name: value for name, value in vars(self).items() if name != "failures"}


def explore(
    agent: CritiqueAgent,
    calibration: Sequence[Labelled],
    held_out: Sequence[Labelled],
    propose: Propose,
    settings: ExplorationSettings | None = None,
    on_case: Callable[[Progress], None] = lambda progress: None,
    reviewer: RuleReviewer | None = None,
) -> ExplorationReport:
    """Explore `calibration`, evaluate new rules on `held_out`, and write the results to the agent's memories.

    propose: returns a sample's hypotheses.
    reviewer: decides which mined rules are tried; asked if `settings.interrupt_on` has "admit_rule".

    `agent.frozen` is ignored. Raises FrozenMemoryError if the memories were opened read-only, and ValueError for
    `interrupt_on` without a reviewer.
    """
    resources = ExplorationResources(
        exploring_agent=replace(agent, frozen=False),
        frozen_agent=replace(agent, frozen=True),
        calibration={labelled.sample.id: labelled for labelled in calibration},
        held_out=held_out,
        propose=propose,
        settings=settings or ExplorationSettings(),
        on_case=on_case,
        run_id=uuid.uuid4().hex[:12],
    )
    with resources.trace.case():
        state = _run(resources, reviewer)
    return ExplorationReport(
        cases=state["explored"],
        skipped=len(resources.calibration) - state["explored"] - state["unscored"],
        unscored=state["unscored"],
        blocked_cases=tuple(sorted(set(state["blocked_cases"]))),
        srcc=mean_srcc(resources.explored.values()),
        held_out_srcc_before=state["held_out_srcc_before"],
        held_out_srcc_after=state["held_out_srcc_after"],
        mined=tuple(state["mined"]),
        admitted=tuple(state["admitted"]),
        retired=tuple(state["retired"]),
        reweighed=state["reweighed"],
        failures=tuple(QuestionFailure(**item) for item in state["failures"]),
    )


def _run(resources: ExplorationResources, reviewer: RuleReviewer | None) -> dict[str, Any]:
    """The last state of the graph; a person is asked in between."""
    if resources.settings.interrupt_on and reviewer is None:
        raise ValueError("interrupt_on needs a reviewer of rules")
    graph = build_exploration_graph(InMemorySaver()) if resources.settings.interrupt_on else exploration_graph
    steps = recursion_limit(len(resources.calibration), len(resources.batches))
    config: Any = {
        "recursion_limit": steps + len(resources.settings.interrupt_on),
        "configurable": {"thread_id": resources.run_id},
    }
    given: Any = {"trace_id": resources.run_id, "case_id": EXPLORATION, "batch": 0}
    while True:
        state = graph.invoke(given, config, context=ExplorationContext(resources))
        if "__interrupt__" not in state or reviewer is None:
            return state
        given = Command(resume=reviewer(state["__interrupt__"][0].value))
