"""The critique agent: everything a critique needs, held together, and one call that judges a group.

An agent never writes to its memories; exploration (`agent/exploration/explore.py`) does, between critiques. A frozen
agent also stops exploring: its rules are retrieved without the UCB bonus, so that equal inputs give equal
verdicts.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent.context import CritiqueContext, CritiqueResources, CritiqueSettings, SampleEmbedder
from agent.graph import graph, recursion_limit
from agent.tracing.records import Trace
from agent.types import CritiqueTool, Evidence, GroupCritique, Missing, Revision
from agent.vlm.protocol import VLMBackend
from agent.vlm.wrappers.availability import AvailabilityMonitor, BackendUnavailable
from hmr.body.model import Body
from hmr.types import Detector, Hypotheses, Renderer, Sample
from memory.prototypes import PrototypeMemory
from memory.rules import RuleMemory

__all__ = ["CritiqueAgent"]


@dataclass(frozen=True)
class CritiqueAgent:
    """Judges groups of hypotheses; a `hmr.types.Scorer`. Safe to share between threads if its backend is."""

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

    @property
    def name(self) -> str:
        return f"agent:{self.backend.name}"

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        """Scores from 0 to 100, None where judging failed.

        Raises BackendUnavailable where a question found nobody to answer it: who asks for scores keeps them for good, and half
        a critique would stand for a whole one.
        """
        listener = AvailabilityMonitor(self.backend)
        scores = list(replace(self, backend=listener).critique(sample, hypotheses).scores)
        if listener.unheard:
            raise BackendUnavailable(listener.unheard)
        return scores

    def critique(self, sample: Sample, hypotheses: Hypotheses) -> GroupCritique:
        """Judge one group of at least two hypotheses.

        A backend or a tool that fails costs scores (None, with a reason) or evidence (`missing`), never an
        exception. Raises ValueError for a group of one, which has no ranking.
        """
        if len(hypotheses) < 2:
            raise ValueError(f"a critique ranks a group of at least 2 hypotheses, not {len(hypotheses)}")
        resources = self._desk(sample, hypotheses)
        start = {
            "trace_id": uuid.uuid4().hex[:12],
            "case_id": sample.id,
            "revisions": [],
            "second_look": [],
            "bought": [],
            "close_ups": {},
        }
        with self.trace.case():
            state = graph.invoke(
                start,
                context=CritiqueContext(self.settings, resources),
                config={"recursion_limit": recursion_limit(self.settings.max_revisions)},
            )
        return _verdict(state, resources)

    def _desk(self, sample: Sample, hypotheses: Hypotheses) -> CritiqueResources:
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
        )


def _verdict(state: Mapping[str, Any], resources: CritiqueResources) -> GroupCritique:
    indices = [str(j) for j in range(len(resources.hypotheses))]
    return GroupCritique(
        sample_id=resources.sample.id,
        scores=tuple(state["scores"][j] for j in indices),
        comments=tuple(state["comments"].get(j, "") for j in indices),
        tags=tuple(state["tags"]),
        rank_dispersion=state["rank_dispersion"],
        evidence=tuple(
            _evidence(item) for item in (*state["evidence"], *state["second_look"], *state["bought"])
        ),
        missing=tuple(Missing(**item) for item in state["missing"]),
        rules=resources.retrieved_rules,
        prototypes=resources.retrieved_prototypes,
        revisions=tuple(_revision(item) for item in state["revisions"]),
        reasons=tuple(state["reasons"][j] for j in indices if j in state["reasons"]),
        trace_id=state["trace_id"],
    )


def _evidence(item: Mapping[str, Any]) -> Evidence:
    return Evidence(
        tool=item["tool"],
        metric=item["metric"],
        unit=item["unit"],
        values=tuple(item["values"]),
        parts=tuple(tuple(parts) for parts in item["parts"]),
        sentences=tuple(item["sentences"]),
    )


def _revision(item: Mapping[str, Any]) -> Revision:
    return Revision(
        tuple(item["hypotheses"]),
        tuple(item["before"]),
        tuple(item["after"]),
        item["reason"],
        tuple(item["looked_at"]),
    )
