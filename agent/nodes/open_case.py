"""The first node, and the objects of a critique whose state comes from a checkpoint or names a photograph."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from langgraph.runtime import Runtime

from agent.context import CritiqueContext, CritiqueResources
from agent.nodes.judge import restore_close_ups
from agent.nodes.measure import build_case, draw_case
from agent.nodes.retrieve import restore_retrieved
from agent.state import CritiqueInput

__all__ = ["OpenRequest", "open_case", "with_resources"]

Json = dict[str, Any]
Node = Callable[..., Json]  # (state, runtime) -> update
OpenRequest = Callable[[CritiqueInput], CritiqueResources]


def open_case(state: CritiqueInput, runtime: Runtime[CritiqueContext]) -> Json:
    """Name the case, keep the request, and set what later nodes extend."""
    return {
        "request": dict(state),
        "trace_id": state.get("trace_id") or uuid.uuid4().hex[:12],
        "case_id": runtime.context.resources.sample.id,
        "revisions": [],
        "corrections": [],
        "score_evidence": [],
        "extra_evidence": [],
        "close_ups": {},
        "doubts": {},
    }


def with_resources(node: Node, open_request: OpenRequest | None) -> Node:
    """The same node, with the resources of the context, or else those that the request in the state names.

    open_request: opens these; None if only the context can have resources.

    The node raises ValueError if there are none, or if the state is that of another group.
    """

    @wraps(node)
    def run(state: Mapping[str, Any], runtime: Runtime[CritiqueContext]) -> Json:
        context = runtime.context or CritiqueContext()
        if context.resources is None:
            if open_request is None:
                raise ValueError(
                    "the graph needs CritiqueResources in its context; CritiqueAgent provides them"
                )
            opened = open_request(state.get("request") or state)  # pyright: ignore[reportArgumentType]
            context = context.model_copy(update={"resources": opened})
        _restore(state, context)
        return node(state, runtime.override(context=context))

    return run


def _restore(state: Mapping[str, Any], context: CritiqueContext) -> None:
    """Make what earlier nodes made in another process; in the same process there is nothing to do."""
    resources: CritiqueResources = context.resources
    if "case" not in state or resources.is_prepared:
        return
    if resources.case_key() != state["case"]:
        raise ValueError("the checkpoint belongs to another photograph or to another group of hypotheses")
    resources.case, _ = build_case(resources, context.settings)
    draw_case(resources, context.settings.view_margin)
    restore_retrieved(state, resources)
    restore_close_ups(state, context)
