"""The first node, and the objects of a critique whose state comes from a checkpoint or names a photograph."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from langgraph.runtime import Runtime

from agent.context import CritiqueContext, CritiqueResources
from agent.nodes.measure import build_case, draw_case
from agent.nodes.retrieve import restore_retrieved
from agent.nodes.scoring import restore_close_ups
from agent.state import CritiqueInput

__all__ = ["OpenRequest", "opening", "with_resources"]

Json = dict[str, Any]
Node = Callable[..., Json]  # (state, runtime) -> update
# From a request and the id of its run; asked again by every node, so equal arguments give the same object.
OpenRequest = Callable[[CritiqueInput, str], CritiqueResources]


def opening(open_request: OpenRequest | None) -> Node:
    """The node `open_case`, which names the case, keeps the request, and clears what an earlier critique in the same
    thread has left. Fields that a later request leaves out keep their values, as LangGraph's state does.
    """

    def open_case(state: Mapping[str, Any], runtime: Runtime[CritiqueContext]) -> Json:
        trace_id = _trace_id(state)
        request = {name: state[name] for name in CritiqueInput.__annotations__ if name in state}
        request["trace_id"] = trace_id
        resources = _context(runtime, open_request, request, trace_id).resources
        return {"request": request, "trace_id": trace_id, "case_id": resources.sample.id, **_cleared()}

    return open_case


def _trace_id(state: Mapping[str, Any]) -> str:
    """The one that was asked for; a new one if there is none, or if it is that of the thread's last critique."""
    given, last = state.get("trace_id"), state.get("request", {}).get("trace_id")
    return given if given and given != last else uuid.uuid4().hex[:12]


def _cleared() -> Json:
    return {
        **dict.fromkeys(("scores", "comments", "reasons", "failures", "questions")),  # None clears them
        "case": "",
        "degeneracy": "",
        "revisions": [],
        "corrections": [],
        "score_evidence": [],
        "reobserved_evidence": [],
        "evidence_calls": [],
        "rules": [],
        "prototypes": [],
        "replies": [],
        "close_ups": {},
        "uncertain": {},
    }


def with_resources(node: Node, open_request: OpenRequest | None) -> Node:
    """The same node, with the resources of the context, or else those that the request in the state names.

    open_request: opens these; None if only the context can have resources.

    The node raises ValueError if there are none, or if the state is that of another group.
    """

    @wraps(node)
    def run(state: Mapping[str, Any], runtime: Runtime[CritiqueContext]) -> Json:
        context = _context(runtime, open_request, state["request"], state["trace_id"])
        _restore(state, context)
        return node(state, runtime.override(context=context))

    return run


def _context(
    runtime: Runtime[CritiqueContext], open_request: OpenRequest | None, request: Json, trace_id: str
) -> CritiqueContext:
    """With resources. A graph that is a node of another one gets the context as that one has it, such as JSON."""
    context = CritiqueContext.model_validate(runtime.context or {})
    if context.resources is not None:
        return context
    if open_request is None:
        raise ValueError("the graph needs CritiqueResources in its context; CritiqueAgent provides them")
    opened = open_request(request, trace_id)  # pyright: ignore[reportArgumentType]
    return context.model_copy(update={"resources": opened})


def _restore(state: Mapping[str, Any], context: CritiqueContext) -> None:
    """Make what earlier nodes made in another process; in the same process there is nothing to do."""
    resources: CritiqueResources = context.resources
    if not state.get("case") or resources.is_prepared:
        return
    if resources.case_key() != state["case"]:
        raise ValueError("the checkpoint belongs to another photograph or to another group of hypotheses")
    resources.case, _ = build_case(resources, context.settings)
    draw_case(resources, context.settings.view_margin)
    restore_retrieved(state, resources)
    restore_close_ups(state, context)
