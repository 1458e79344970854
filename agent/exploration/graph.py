"""The graph of the exploration phase (method section 2).

open_batch -> (score -> judge -> write_back)* -> mine -> retire -> (open_batch ... | [review_rules] -> admit)
    -> reweigh -> conclude -> END

`score` runs the critique graph on one case. After each node another process can resume from the memory's database: a
case, a round of mining and an admission are one transaction each.
"""

from __future__ import annotations

from typing import Any, Literal

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from agent.exploration import nodes
from agent.exploration.context import ADMIT_RULE, ExplorationContext, ExplorationState
from agent.tracing.records import traced

__all__ = ["build_exploration_graph", "exploration_graph", "recursion_limit"]


def recursion_limit(cases: int, batches: int) -> int:
    """The maximal number of steps: three per case, three per batch, three to finish, and one that LangGraph needs
    after the last."""
    return 3 * cases + 3 * batches + 4


def batch_or_admit(
    state: ExplorationState, runtime: Runtime[ExplorationContext]
) -> Literal["open_batch", "review_rules", "admit"]:
    resources = runtime.context.resources if runtime.context else None
    if resources is None:
        raise ValueError(
            "LangGraph's server shows this graph; meshcritic explore runs it, with cases and their truth"
        )
    if state["batch"] < len(resources.batches):
        return "open_batch"
    return "review_rules" if ADMIT_RULE in resources.settings.interrupt_on else "admit"


def score_or_mine(state: ExplorationState) -> Literal["score", "mine"]:
    return "score" if state["todo"] else "mine"


def build_exploration_graph(
    checkpointer: BaseCheckpointSaver[Any] | None = None,
) -> CompiledStateGraph[Any, ExplorationContext, Any, Any]:
    """Compile the graph. Agents, cases and truth are part of the runtime context. A checkpointer is needed only for the
    questions to a person; the database resumes a killed exploration."""
    graph = StateGraph(ExplorationState, context_schema=ExplorationContext)
    graph.add_node("open_batch", nodes.open_batch)
    graph.add_node("score", nodes.score)
    graph.add_node("judge", traced(nodes.judge))
    graph.add_node("write_back", traced(nodes.write_back))
    graph.add_node("mine", traced(nodes.mine))
    graph.add_node("retire", traced(nodes.retire))
    graph.add_node("review_rules", traced(nodes.review_rules))
    graph.add_node("admit", traced(nodes.admit))
    graph.add_node("reweigh", traced(nodes.reweigh))
    graph.add_node("conclude", traced(nodes.conclude))

    graph.add_conditional_edges(START, batch_or_admit)
    graph.add_conditional_edges("open_batch", score_or_mine)
    graph.add_edge("score", "judge")
    graph.add_edge("judge", "write_back")
    graph.add_conditional_edges("write_back", score_or_mine)
    graph.add_edge("mine", "retire")
    graph.add_conditional_edges("retire", batch_or_admit)
    graph.add_edge("review_rules", "admit")
    graph.add_edge("admit", "reweigh")
    graph.add_edge("reweigh", "conclude")
    return graph.compile(name="exploration", checkpointer=checkpointer)


exploration_graph = build_exploration_graph()
