"""The exploration phase: judge images whose truth is known, and remember what that taught (method section 2).

For every case: score the group; count the rules it used, as a success if Spearman's rho with the true errors
exceeds tau; write a representative hypothesis to the prototypes, with how far each metric agreed with the
truth. After every batch: mine one or two rules from the discrepancy, into quarantine, and retire rules that
keep failing. At the end, on held-out cases: admit what helps, and fit the weights. `agent/exploration/graph.py`
is the diagram.

Done cases and steps are known by the memory's own database, so that an exploration killed at any point goes on
where it stopped: at most the group in flight is lost, nothing counts twice, and the fit sees all cases, whichever
process explored them. Their evidence and true errors are kept there for that; they are labelled lab cases. A
backend that is down teaches nothing: what could not be judged, explored or tried, is left to a later run.

Only this module, `agent/exploration/` and `agent/exploration/learning.py` see truth. Left out: several cases at once. Which
rules a case tries depends on the counts of those before it, and the same cases should leave the same memory.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agent.agent import CritiqueAgent
from agent.exploration.context import (
    EXPLORATION,
    ExplorationContext,
    ExplorationResources,
    ExplorationSettings,
    Progress,
    Propose,
)
from agent.exploration.graph import exploration_graph, recursion_limit
from agent.exploration.nodes import mean_srcc
from hmr.types import Labelled

__all__ = ["ExplorationReport", "ExplorationSettings", "Progress", "explore"]


@dataclass(frozen=True)
class ExplorationReport:
    """What came of it; rho is the mean over cases, None where none had a ranking."""

    cases: int  # explored now
    skipped: int  # explored by an earlier run
    unscored: int  # not a single score came back: a later run asks for them again
    held_up: tuple[
        str, ...
    ]  # cases for which none came when rules were tried on them: the trials wait likewise
    srcc: float | None  # over all cases explored, now or earlier
    held_out_srcc_before: float | None
    held_out_srcc_after: float | None
    mined: tuple[str, ...]  # rule ids; these three are of this run
    admitted: tuple[str, ...]
    retired: tuple[str, ...]
    reweighed: int


def explore(
    agent: CritiqueAgent,
    calibration: Sequence[Labelled],
    held_out: Sequence[Labelled],
    propose: Propose,
    settings: ExplorationSettings | None = None,
    on_case: Callable[[Progress], None] = lambda progress: None,
) -> ExplorationReport:
    """Explore `calibration`, try on `held_out` what was learned, and leave it in the agent's memories.

    `propose` gives each sample its hypotheses. The agent may be frozen or not: exploring, it is not. Raises
    FrozenMemoryError if its memories were opened read-only.
    """
    resources = ExplorationResources(
        exploring_agent=replace(agent, frozen=False),
        judge=replace(agent, frozen=True),
        calibration={labelled.sample.id: labelled for labelled in calibration},
        held_out=held_out,
        propose=propose,
        settings=settings or ExplorationSettings(),
        on_case=on_case,
        run_id=uuid.uuid4().hex[:12],
    )
    start = {"trace_id": resources.run_id, "case_id": EXPLORATION, "batch": 0}
    with resources.trace.case():
        state = exploration_graph.invoke(
            start,
            context=ExplorationContext(resources),
            config={"recursion_limit": recursion_limit(len(resources.calibration), len(resources.batches))},
        )
    return ExplorationReport(
        cases=state["explored"],
        skipped=len(resources.calibration) - state["explored"] - state["unscored"],
        unscored=state["unscored"],
        held_up=tuple(sorted(set(state["held_up"]))),
        srcc=mean_srcc(resources.explored.values()),
        held_out_srcc_before=state["held_out_srcc_before"],
        held_out_srcc_after=state["held_out_srcc_after"],
        mined=tuple(state["mined"]),
        admitted=tuple(state["admitted"]),
        retired=tuple(state["retired"]),
        reweighed=state["reweighed"],
    )
