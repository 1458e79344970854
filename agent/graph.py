"""The graph that critiques one group.

open_case -> render_views -> measure_evidence -> retrieve_rules -> retrieve_prototypes -> score -> self_reflect
    (-> [review_uncertain] -> reobserve -> revise -> self_reflect)* -> [review_scores] -> estimate_errors -> END

A review is a node at which LangGraph interrupts the graph until a person has answered; without
`CritiqueSettings.interrupt_on` there is none. In the agentic mode, choose_evidence takes the place of the nodes from
measure_evidence to score: the model calls for the evidence that it wants, then scores.

The loop is bounded by the number of revisions in the state, and by a recursion limit as a second bound (LangGraph's
default is 10,007 steps).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from agent import nodes
from agent.context import CritiqueContext, CritiqueSettings
from agent.events import NodeFinished, NodeStarted
from agent.nodes.open_case import Node, OpenRequest, with_resources
from agent.nodes.review import final_review
from agent.state import CritiqueInput, CritiqueOutput, CritiqueState, OpeningInput
from agent.tracing.records import traced

__all__ = ["build_critique_graph", "graph", "recursion_limit"]

FIRST_STEPS = 7  # nodes from open_case to the first self_reflect
STEPS_PER_REVISION = 4
LAST_STEPS = 2

AfterReflection = Literal["review_uncertain", "reobserve", "review_scores", "estimate_errors"]
AfterReview = Literal["reobserve", "review_scores", "estimate_errors"]


def recursion_limit(max_revisions: int) -> int:
    """The maximal number of steps: those before any revision, those of the revisions, the last ones, and one to
    spare."""
    return FIRST_STEPS + STEPS_PER_REVISION * max_revisions + LAST_STEPS + 1


def collect_or_choose(
    state: CritiqueState, runtime: Runtime[CritiqueContext]
) -> Literal["measure_evidence", "choose_evidence"]:
    """Collect all evidence first, or let the model choose it."""
    return "choose_evidence" if _settings(runtime).mode == "agentic" else "measure_evidence"


def after_reflection(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> AfterReflection:
    """Revise while scores are uncertain and revisions are left; a person is asked before if the settings say so."""
    settings = _settings(runtime)
    if state["uncertain"] and len(state["revisions"]) < settings.max_revisions:
        return "review_uncertain" if "revise" in settings.interrupt_on else "reobserve"
    return "review_scores" if final_review(state, settings) else "estimate_errors"


def after_review(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> AfterReview:
    """Revise what the person left uncertain."""
    if state["uncertain"]:
        return "reobserve"
    return "review_scores" if final_review(state, _settings(runtime)) else "estimate_errors"


def _settings(runtime: Runtime[CritiqueContext]) -> CritiqueSettings:
    return CritiqueContext.model_validate(runtime.context or {}).settings


def build_critique_graph(
    checkpointer: BaseCheckpointSaver[Any] | None = None, open_request: OpenRequest | None = None
) -> CompiledStateGraph[Any, CritiqueContext, Any, Any]:
    """Compile the graph. Models and memory are part of the runtime context.

    open_request: opens them for an input that names them, if the context has none.
    """
    graph = StateGraph(
        CritiqueState,
        context_schema=CritiqueContext,
        input_schema=CritiqueInput,
        output_schema=CritiqueOutput,
    )

    def node(function: Callable[..., dict[str, Any]]) -> Node:
        return with_resources(_announced(traced(function)), open_request)

    graph.add_node("open_case", nodes.opening(open_request), input_schema=OpeningInput)
    graph.add_node("render_views", node(nodes.render_views))
    graph.add_node("measure_evidence", node(nodes.measure_evidence))
    graph.add_node("retrieve_rules", node(nodes.retrieve_rules))
    graph.add_node("retrieve_prototypes", node(nodes.retrieve_prototypes))
    graph.add_node("score", node(nodes.score))
    graph.add_node("choose_evidence", node(nodes.choose_evidence))
    graph.add_node("self_reflect", node(nodes.self_reflect))
    graph.add_node("review_uncertain", node(nodes.review_uncertain))
    graph.add_node("reobserve", node(nodes.reobserve))
    graph.add_node("revise", node(nodes.revise))
    graph.add_node("review_scores", node(nodes.review_scores))
    graph.add_node("estimate_errors", node(nodes.estimate_errors))

    graph.add_edge(START, "open_case")
    graph.add_edge("open_case", "render_views")
    graph.add_conditional_edges("render_views", collect_or_choose)
    graph.add_edge("measure_evidence", "retrieve_rules")
    graph.add_edge("retrieve_rules", "retrieve_prototypes")
    graph.add_edge("retrieve_prototypes", "score")
    graph.add_edge("score", "self_reflect")
    graph.add_edge("choose_evidence", "self_reflect")
    graph.add_conditional_edges("self_reflect", after_reflection)
    graph.add_conditional_edges("review_uncertain", after_review)
    graph.add_edge("reobserve", "revise")
    graph.add_edge("revise", "self_reflect")
    graph.add_edge("review_scores", "estimate_errors")
    graph.add_edge("estimate_errors", END)
    return graph.compile(name="critique", checkpointer=checkpointer)


def _announced(node: Node) -> Node:
    """The same node, which tells the graph's stream when it begins and ends."""

    @wraps(node)
    def run(state: Any, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
        name, start = node.__name__, time.perf_counter()
        runtime.stream_writer(NodeStarted(name))
        update = node(state, runtime)
        runtime.stream_writer(NodeFinished(name, (time.perf_counter() - start) * 1e3))
        return update

    return run


graph = build_critique_graph()
