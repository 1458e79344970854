"""The critique agent: a backend, tools and memories, and the graph that critiques a group with them.

An agent never writes to its memories; exploration (`agent/exploration/explore.py`) does, between critiques. A frozen
agent retrieves rules without the UCB bonus, so that equal inputs give equal verdicts.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from agent.context import CritiqueContext, CritiqueResources, CritiqueSettings, SampleEmbedder
from agent.graph import graph, recursion_limit
from agent.nodes.measure import build_case
from agent.tools.running import run_tool
from agent.tracing.records import Trace
from agent.types import (
    BackendUnavailable,
    Case,
    CritiqueTool,
    ErrorEstimate,
    Evidence,
    GroupCritique,
    Missing,
    QuestionCounts,
    QuestionFailure,
    Revision,
    unavailable_reason,
)
from agent.verdict.error_model import ErrorModel
from agent.vlm.protocol import VLMBackend
from common.stopping import stoppable
from hmr.body.model import Body
from hmr.types import Detection, Detector, Hypotheses, Renderer, Sample
from memory.prototype_memory import PrototypeMemory
from memory.rule_memory import RuleMemory

__all__ = ["CritiqueAgent", "critique_many"]

GROUPS_IN_FLIGHT = 8


@dataclass(frozen=True)
class CritiqueAgent:
    """Scores groups of hypotheses; a `hmr.types.Scorer`. Thread-safe if its backend is."""

    backend: VLMBackend
    tools: Sequence[CritiqueTool]
    rules: RuleMemory
    prototypes: PrototypeMemory
    body: Body
    renderer: Renderer
    detector: Detector | None
    image_embedder: SampleEmbedder
    settings: CritiqueSettings = field(default_factory=CritiqueSettings)
    trace: Trace = field(default_factory=Trace)
    frozen: bool = True
    error_model: ErrorModel | None = None  # None: no estimates in millimetres

    def __post_init__(self) -> None:
        if self.settings.mode == "agentic" and self.backend.capabilities.tool_calls == "none":
            raise ValueError(
                f"the mode agentic needs a language model, and the backend {self.backend.name} cannot call for "
                "evidence; choose another backend or the mode fixed"
            )

    @property
    def name(self) -> str:
        return f"agent:{self.backend.name}"

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        """Scores from 0 to 100, None where scoring failed.

        Raises BackendUnavailable if any question was not answered because the backend is unavailable: callers store
        scores permanently, and scores of an incomplete critique differ from those of a complete one.
        """
        critique = self.critique(sample, hypotheses)
        if reason := unavailable_reason(critique.failures):
            raise BackendUnavailable(reason)
        return list(critique.scores)

    def critique(
        self, sample: Sample, hypotheses: Hypotheses, detection: Detection | None = None
    ) -> GroupCritique:
        """Critique one group of at least two hypotheses.

        detection: what the agent's detector has already reported of this person; None: it is run. A detector that
            searched for the person often reads more than one that is given a box.

        If the backend fails, scores are None (see `reasons`); if a tool fails, its evidence is left out (see
        `missing`). Neither raises an exception. Raises ValueError for a group of one, which has no ranking.
        """
        if len(hypotheses) < 2:
            raise ValueError(f"a critique ranks a group of at least 2 hypotheses, not {len(hypotheses)}")
        resources = self._resources(sample, hypotheses, detection)
        start = {
            "trace_id": uuid.uuid4().hex[:12],
            "case_id": sample.id,
            "revisions": [],
            "score_evidence": [],
            "extra_evidence": [],
            "close_ups": {},
        }
        with self.trace.case():
            state = graph.invoke(
                start,
                context=CritiqueContext(self.settings, resources),
                config={"recursion_limit": recursion_limit(self.settings.max_revisions)},
            )
        return _verdict(state, resources)

    def case(self, sample: Sample, hypotheses: Hypotheses, detection: Detection | None = None) -> Case:
        """The group posed, rendered and detected, as the tools get it; `detection` as of `critique`."""
        return build_case(self._resources(sample, hypotheses, detection), self.settings)[0]

    def measure(
        self, sample: Sample, hypotheses: Hypotheses, detection: Detection | None = None
    ) -> tuple[Case, list[Evidence]]:
        """The evidence on a group of at least one hypothesis, without a question to the backend; `detection` as of
        `critique`."""
        case = self.case(sample, hypotheses, detection)
        results = [run_tool(tool, case) for tool in self.tools]
        return case, [item for item in results if isinstance(item, Evidence)]

    def _resources(
        self, sample: Sample, hypotheses: Hypotheses, detection: Detection | None = None
    ) -> CritiqueResources:
        return CritiqueResources(
            backend=self.backend,
            tools=self.tools,
            rules=self.rules,
            prototypes=self.prototypes,
            body=self.body,
            renderer=self.renderer,
            detector=self.detector,
            image_embedder=self.image_embedder,
            trace=self.trace,
            sample=sample,
            hypotheses=hypotheses,
            frozen=self.frozen,
            error_model=self.error_model,
            detection=detection,
        )


def _verdict(state: Mapping[str, Any], resources: CritiqueResources) -> GroupCritique:
    indices = [str(j) for j in range(len(resources.hypotheses))]
    evidence = (*state["evidence"], *state["score_evidence"], *state["extra_evidence"])
    return GroupCritique(
        sample_id=resources.sample.id,
        scores=tuple(state["scores"][j] for j in indices),
        comments=tuple(state["comments"].get(j, "") for j in indices),
        tags=tuple(state["tags"]),
        rank_dispersion=state["rank_dispersion"],
        evidence=tuple(map(Evidence.from_json, evidence)),
        missing=tuple(Missing(**item) for item in state["missing"]),
        rules=resources.retrieved_rules,
        prototypes=resources.retrieved_prototypes,
        revisions=tuple(Revision(**item) for item in state["revisions"]),
        reasons=tuple(state["reasons"][j] for j in indices if j in state["reasons"]),
        failures=tuple(QuestionFailure(**item) for item in state["failures"]),
        trace_id=state["trace_id"],
        questions=QuestionCounts.from_json(state["questions"]),
        errors=ErrorEstimate.from_json(state["error_estimate"]) if state["error_estimate"] else None,
        detector_confidence=state["detector_confidence"],
    )


def critique_many(
    agent: CritiqueAgent,
    groups: Iterable[tuple[Sample, Hypotheses] | tuple[Sample, Hypotheses, Detection | None]],
    in_flight: int = GROUPS_IN_FLIGHT,
) -> Iterator[GroupCritique]:
    """Critique several groups concurrently; yields the verdicts in the order of the groups.

    Runs as many threads as the backend accepts concurrent requests, at most `in_flight`. A backend that accepts one,
    such as the embedded critic, gets the groups one after the other, because threads would only slow down the Python
    code. Groups are taken from the iterable as needed, at most twice the number of threads ahead.

    Raises what `CritiqueAgent.critique` raises, at that group's turn.
    """
    workers = min(in_flight, agent.backend.capabilities.concurrency)
    if workers == 1:
        for group in groups:
            sample, hypotheses, *known = group
            yield agent.critique(sample, hypotheses, *known)
        return
    pending: deque[Future[GroupCritique]] = deque()
    with stoppable(ThreadPoolExecutor(workers, "critique")) as pool:
        for group in groups:
            sample, hypotheses, *known = group
            pending.append(pool.submit(agent.critique, sample, hypotheses, *known))
            if len(pending) == 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
