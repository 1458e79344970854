"""The graph that critiques one group.

render_views -> measure_evidence -> retrieve_rules -> retrieve_prototypes -> score -> self_reflect
    (-> look_again -> revise -> self_reflect)* -> estimate_errors -> END

In the agentic mode, choose_evidence takes the place of the nodes from measure_evidence to score: the model calls for
the evidence that it wants, then scores.

The loop is bounded by the number of revisions in the state, and by a recursion limit as a second bound (LangGraph's
default is 10,007 steps).
"""

from __future__ import annotations

from typing import Any, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from agent import nodes
from agent.context import CritiqueContext
from agent.state import CritiqueState
from agent.tracing.records import traced

__all__ = ["build_critique_graph", "graph", "recursion_limit"]

FIRST_STEPS = 6  # nodes from render_views to the first self_reflect


def recursion_limit(max_revisions: int) -> int:
    """The maximal number of steps: those before any revision, three per revision, the last one, and one to spare."""
    return FIRST_STEPS + 3 * max_revisions + 2


def collect_or_choose(
    state: CritiqueState, runtime: Runtime[CritiqueContext]
) -> Literal["measure_evidence", "choose_evidence"]:
    """Collect all evidence first, or let the model choose it."""
    return "choose_evidence" if runtime.context.settings.mode == "agentic" else "measure_evidence"


def look_again_or_estimate(
    state: CritiqueState, runtime: Runtime[CritiqueContext]
) -> Literal["look_again", "estimate_errors"]:
    """Revise while scores are uncertain and revisions are left."""
    if state["doubts"] and len(state["revisions"]) < runtime.context.settings.max_revisions:
        return "look_again"
    return "estimate_errors"


def build_critique_graph() -> CompiledStateGraph[Any, CritiqueContext, Any, Any]:
    """Compile the graph. Models and memory are part of the runtime context."""
    graph = StateGraph(CritiqueState, context_schema=CritiqueContext)
    graph.add_node("render_views", traced(nodes.render_views))
    graph.add_node("measure_evidence", traced(nodes.measure_evidence))
    graph.add_node("retrieve_rules", traced(nodes.retrieve_rules))
    graph.add_node("retrieve_prototypes", traced(nodes.retrieve_prototypes))
    graph.add_node("score", traced(nodes.score))
    graph.add_node("choose_evidence", traced(nodes.choose_evidence))
    graph.add_node("self_reflect", traced(nodes.self_reflect))
    graph.add_node("look_again", traced(nodes.look_again))
    graph.add_node("revise", traced(nodes.revise))
    graph.add_node("estimate_errors", traced(nodes.estimate_errors))

    graph.add_edge(START, "render_views")
    graph.add_conditional_edges("render_views", collect_or_choose)
    graph.add_edge("measure_evidence", "retrieve_rules")
    graph.add_edge("retrieve_rules", "retrieve_prototypes")
    graph.add_edge("retrieve_prototypes", "score")
    graph.add_edge("score", "self_reflect")
    graph.add_edge("choose_evidence", "self_reflect")
    graph.add_conditional_edges("self_reflect", look_again_or_estimate)
    graph.add_edge("look_again", "revise")
    graph.add_edge("revise", "self_reflect")
    graph.add_edge("estimate_errors", END)
    return graph.compile(name="critique")


graph = build_critique_graph()
