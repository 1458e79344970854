"""The critique agent: a backend, tools and memories, and the graph that critiques a group with them.

An agent never writes to its memories; exploration (`agent/exploration/explore.py`) does, between critiques. A frozen
agent retrieves rules without the UCB bonus, so that equal inputs give equal verdicts.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

from agent.context import CritiqueResources, CritiqueSettings, SampleEmbedder
from agent.critique_run import in_own_context, run_critique
from agent.events import CritiqueEvent, CritiqueFinished, Emit, ReviewRequested
from agent.expected_error.error_model import ErrorModel
from agent.nodes.choose_evidence import check_tool_calls
from agent.nodes.measure import build_case
from agent.tools.running import run_tool, tool_source_digest
from agent.tracing.records import Trace
from agent.types import (
    BackendUnavailable,
    Case,
    CritiqueTool,
    Evidence,
    GroupCritique,
    ReviewAnswer,
    ReviewNeeded,
    ReviewRequest,
    unavailable_reason,
)
from agent.vlm.protocol import VLMBackend
from common.stopping import stoppable
from common.storage.fingerprint import json_digest
from hmr.body.model import Body
from hmr.detection.protocol import detector_digest
from hmr.types import Detection, Detector, Hypotheses, Renderer, Sample
from memory.prototype_memory import PrototypeMemory
from memory.rule_memory import RuleMemory

__all__ = ["CritiqueAgent", "Reviewer", "critique_many", "usable_scores"]

GROUPS_IN_FLIGHT = 8
Reviewer = Callable[[Sample, ReviewRequest], ReviewAnswer]
Group = tuple[Sample, Hypotheses] | tuple[Sample, Hypotheses, Detection | None]


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
    checkpointer: BaseCheckpointSaver[Any] | None = None  # LangGraph's; None: a critique is not saved

    def __post_init__(self) -> None:
        if self.settings.mode == "agentic":
            check_tool_calls(self.backend)

    @property
    def name(self) -> str:
        return f"agent:{self.backend.name}"

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        """Scores from 0 to 100; None, and raises, as `usable_scores`."""
        return usable_scores(self.critique(sample, hypotheses))

    def critique(
        self,
        sample: Sample,
        hypotheses: Hypotheses,
        detection: Detection | None = None,
        *,
        on_event: Emit | None = None,
        reviewer: Reviewer | None = None,
    ) -> GroupCritique:
        """Critique one group of at least two hypotheses.

        detection: what the agent's detector has already reported of this person; None: it is run. A detector that
            searched for the person often reads more than one that is given a box.
        on_event: called with every event of `critique_stream`, while the critique runs.
        reviewer: answers the questions to a person that `settings.interrupt_on` asks for.

        If the backend fails, scores are None (see `reasons`); if a tool fails, its evidence is left out (see
        `missing`). Neither raises an exception. Raises ValueError for a group of one, which has no ranking, and
        ReviewNeeded at a question to a person without a reviewer.
        """
        answer = None
        if reviewer and self.settings.interrupt_on and self.checkpointer is None:
            return replace(self, checkpointer=InMemorySaver()).critique(
                sample, hypotheses, detection, on_event=on_event, reviewer=reviewer
            )
        while True:
            event = None
            for event in self._run(sample, hypotheses, detection, answer, watched=on_event is not None):
                if on_event:
                    on_event(event)
            if isinstance(event, CritiqueFinished):
                return event.critique
            assert isinstance(event, ReviewRequested)  # a stream ends with one of the two
            if reviewer is None:
                raise ReviewNeeded("a person has to review the scores first: give a reviewer")
            answer = reviewer(sample, event.request)

    async def acritique(
        self,
        sample: Sample,
        hypotheses: Hypotheses,
        detection: Detection | None = None,
        *,
        on_event: Emit | None = None,
        reviewer: Reviewer | None = None,
    ) -> GroupCritique:
        """`critique` in a thread of its own, in which `on_event` and `reviewer` are called, for a program that runs an
        event loop."""
        return await asyncio.to_thread(
            self.critique, sample, hypotheses, detection, on_event=on_event, reviewer=reviewer
        )

    def critique_stream(
        self,
        sample: Sample,
        hypotheses: Hypotheses,
        detection: Detection | None = None,
        *,
        answer: ReviewAnswer | None = None,
    ) -> Iterator[CritiqueEvent]:
        """The events of a critique as they happen; the last one is CritiqueFinished or ReviewRequested.

        answer: of a person to the ReviewRequested with which an earlier stream of the same group ended.

        With a checkpointer, a critique that was killed, or that waits for a person, goes on from its last finished
        node, also in another process; one that is finished is not repeated, unless the backend was unavailable to one
        of its questions. Raises ValueError for a group of one, for
        an answer where nobody was asked, and for `settings.interrupt_on` without a checkpointer.

        The nodes run in another thread than the caller's, one at a time.
        """
        return self._run(sample, hypotheses, detection, answer, watched=True)

    def _run(
        self,
        sample: Sample,
        hypotheses: Hypotheses,
        detection: Detection | None,
        answer: ReviewAnswer | None,
        watched: bool,
    ) -> Iterator[CritiqueEvent]:
        if len(hypotheses) < 2:
            raise ValueError(f"a critique ranks a group of at least 2 hypotheses, not {len(hypotheses)}")
        if self.checkpointer is None and self.settings.interrupt_on:
            raise ValueError("interrupt_on needs a reviewer or a checkpointer")
        resources = self.resources(sample, hypotheses, detection)
        return in_own_context(
            run_critique(self.settings, resources, self.checkpointer, self._run_identity(), answer, watched)
        )

    def _run_identity(self) -> str:
        """Of the saved critiques that may be continued; empty if critiques are not saved."""
        if self.checkpointer is None:
            return ""
        estimates = asdict(self.error_model) if self.error_model else None
        return json_digest({**self.identity(), "error_model": estimates})

    def identity(self) -> dict[str, Any]:
        """What the scores depend on, besides a group and the program, as JSON: equal for agents that score alike."""
        detector = self.detector
        return {
            "backend": [self.backend.name, self.backend.revision],
            "detector": detector and [type(detector).__qualname__, detector.name, detector_digest(detector)],
            "image_embedder": self.image_embedder.name,
            "tools": [[tool.name, tool_source_digest(tool)] for tool in self.tools],
            "rules": [asdict(rule) for rule in self.rules.all()],
            "prototypes": [asdict(prototype) for prototype in self.prototypes.all()],
            "body": self.body.digest(),
            "renderer": self.renderer.name,
            "settings": asdict(self.settings),
            "frozen": self.frozen,
        }

    def case(self, sample: Sample, hypotheses: Hypotheses, detection: Detection | None = None) -> Case:
        """The group posed, rendered and detected, as the tools get it; `detection` as of `critique`."""
        return build_case(self.resources(sample, hypotheses, detection), self.settings)[0]

    def measure(
        self, sample: Sample, hypotheses: Hypotheses, detection: Detection | None = None
    ) -> tuple[Case, list[Evidence]]:
        """The evidence on a group of at least one hypothesis, without a question to the backend; `detection` as of
        `critique`."""
        case = self.case(sample, hypotheses, detection)
        results = [run_tool(tool, case) for tool in self.tools]
        return case, [item for item in results if isinstance(item, Evidence)]

    def resources(
        self, sample: Sample, hypotheses: Hypotheses, detection: Detection | None = None
    ) -> CritiqueResources:
        """What the graph needs to critique this group: `CritiqueContext.resources`."""
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


def usable_scores(critique: GroupCritique) -> list[float | None]:
    """The scores of a critique for a caller that keeps them: from 0 to 100, None where scoring failed. Scores that
    follow the labels are None too: they would train a policy on the backend's habit (`agent.scoring.degenerate`).

    Raises BackendUnavailable if any question was not answered because the backend is unavailable: callers store scores
    permanently, and scores of an incomplete critique differ from those of a complete one.
    """
    if reason := unavailable_reason(critique.failures):
        raise BackendUnavailable(reason)
    if critique.degeneracy == "label order":
        return [None] * len(critique.scores)
    return list(critique.scores)


def critique_many(
    agent: CritiqueAgent,
    groups: Iterable[Group],
    in_flight: int = GROUPS_IN_FLIGHT,
    *,
    on_event: Callable[[Sample, CritiqueEvent], None] | None = None,
    reviewer: Reviewer | None = None,
) -> Iterator[GroupCritique]:
    """Critique several groups concurrently; yields the verdicts in the order of the groups.

    on_event: called with the group's sample and each event, from the thread of that group.
    reviewer: as of `CritiqueAgent.critique`; with one, groups are critiqued one after the other.

    Runs as many threads as the backend accepts concurrent requests, at most `in_flight`. A backend that accepts one,
    such as the embedded critic, gets the groups one after the other, because threads would only slow down the Python
    code. Groups are taken from the iterable as needed, at most twice the number of threads ahead.

    Raises what `CritiqueAgent.critique` raises, at that group's turn.
    """

    def critique(group: Group) -> GroupCritique:
        sample, hypotheses, *known = group
        listener = functools.partial(on_event, sample) if on_event else None
        return agent.critique(sample, hypotheses, *known, on_event=listener, reviewer=reviewer)

    workers = 1 if reviewer else min(in_flight, agent.backend.capabilities.concurrency)
    if workers == 1:
        for group in groups:
            yield critique(group)
        return
    pending: deque[Future[GroupCritique]] = deque()
    with stoppable(ThreadPoolExecutor(workers, "critique")) as pool:
        for group in groups:
            pending.append(pool.submit(critique, group))
            if len(pending) == 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
