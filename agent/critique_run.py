"""One run of the critique graph: from the objects of a group to events and the verdict."""

from __future__ import annotations

import contextvars
import uuid
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from agent.context import CritiqueContext, CritiqueResources, CritiqueSettings
from agent.events import CritiqueEvent, CritiqueFinished, ReviewRequested
from agent.graph import build_critique_graph, graph, recursion_limit
from agent.nodes.retrieve import restore_retrieved
from agent.nodes.review import parse_answer
from agent.types import (
    Correction,
    ErrorEstimate,
    Evidence,
    GroupCritique,
    Missing,
    QuestionCounts,
    QuestionFailure,
    ReviewAnswer,
    ReviewRequest,
    Revision,
)
from common.storage.fingerprint import digest

__all__ = ["in_own_context", "run_critique"]

Json = dict[str, Any]


def run_critique(
    settings: CritiqueSettings,
    resources: CritiqueResources,
    checkpointer: BaseCheckpointSaver[Any] | None,
    identity: str,
    answer: ReviewAnswer | None,
    watched: bool,
) -> Generator[CritiqueEvent, None, None]:
    """See `CritiqueAgent.critique_stream`.

    identity: of the agent; a saved critique is that of one agent and one group.
    watched: without, there is only the last event, and the nodes run in the caller's thread.
    """
    compiled = graph if checkpointer is None else build_critique_graph(checkpointer)  # 8 ms
    config: Json = {"recursion_limit": recursion_limit(settings.max_revisions)}
    start: Json | Command[Any] | None = {"trace_id": uuid.uuid4().hex[:12]}
    if checkpointer is not None:
        config["configurable"] = {"thread_id": digest(identity, resources.case_key())}
        if answer is not None:  # refused before it is stored
            parse_answer(answer.to_json(), len(resources.hypotheses))
        start, finished = _continued(compiled, config, start, answer)
        if finished and _lost_backend(finished):  # asked again, as callers that store scores do
            checkpointer.delete_thread(config["configurable"]["thread_id"])
            start, finished = _continued(compiled, config, {"trace_id": uuid.uuid4().hex[:12]}, None)
        if finished:
            restore_retrieved(finished, resources)
            yield CritiqueFinished(_verdict(finished, resources))
            return
    elif answer:
        raise ValueError("an answer to a review needs the checkpointer of the critique that asked for it")
    state: Json = {}
    with resources.trace.case():
        for mode, chunk in compiled.stream(
            start,
            config,  # pyright: ignore[reportArgumentType]
            context=CritiqueContext(settings=settings, resources=resources),
            stream_mode=["custom", "values"] if watched else ["values"],
            durability="sync" if checkpointer else None,
        ):
            if mode == "custom":
                yield chunk  # pyright: ignore[reportReturnType]
            else:
                state = chunk  # pyright: ignore[reportAssignmentType]
    if asked := state.get("__interrupt__"):
        yield ReviewRequested(ReviewRequest.from_json(asked[0].value))
    else:
        yield CritiqueFinished(_verdict(state, resources))


def _continued(
    compiled: CompiledStateGraph[Any, CritiqueContext, Any, Any],
    config: Json,
    start: Json,
    answer: ReviewAnswer | None,
) -> tuple[Json | Command[Any] | None, Json | None]:
    """What the graph is given: the start, nothing to go on from a checkpoint, or a person's answer. And the last state
    of a critique that is finished."""
    saved = compiled.get_state(config)  # pyright: ignore[reportArgumentType]
    if answer is not None:
        if not saved.interrupts:
            raise ValueError("nobody was asked about this group, or the answer has been given already")
        return Command(resume=answer.to_json()), None
    if not saved.values:
        return start, None
    return None, None if saved.next else saved.values  # pyright: ignore[reportReturnType]


def _lost_backend(state: Mapping[str, Any]) -> bool:
    return any(failure["kind"] == "unavailable" for failure in state["failures"])


def in_own_context(events: Generator[CritiqueEvent, None, None]) -> Iterator[CritiqueEvent]:
    """The same events, computed in a copy of the context: between two of them, the variables that a critique sets
    (its open case in the trace) do not reach the caller or another critique."""
    context = contextvars.copy_context()
    try:
        while (event := context.run(next, events, None)) is not None:
            yield event
    finally:
        context.run(events.close)


def _verdict(state: Mapping[str, Any], resources: CritiqueResources) -> GroupCritique:
    indices = [str(j) for j in range(len(resources.hypotheses))]
    evidence = (*state["evidence"], *state["score_evidence"], *state["reobserved_evidence"])
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
        revisions=tuple(map(Revision.from_json, state["revisions"])),
        reasons=tuple(state["reasons"][j] for j in indices if j in state["reasons"]),
        failures=tuple(QuestionFailure(**item) for item in state["failures"]),
        trace_id=state["trace_id"],
        questions=QuestionCounts.from_json(state["questions"]),
        errors=ErrorEstimate.from_json(state["error_estimate"]) if state["error_estimate"] else None,
        unmeasured=tuple(state["unmeasured"]),
        detector_confidence=state["detector_confidence"],
        corrections=tuple(map(Correction.from_json, state["corrections"])),
        degeneracy=state["degeneracy"],
    )
