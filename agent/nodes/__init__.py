"""The nodes of the critique graph, each a function (state, runtime) -> update."""

from agent.nodes.choose_evidence import choose_evidence
from agent.nodes.estimate import estimate_errors
from agent.nodes.measure import measure_evidence, render_views
from agent.nodes.open_case import opening
from agent.nodes.retrieve import retrieve_prototypes, retrieve_rules
from agent.nodes.review import review_scores, review_uncertain
from agent.nodes.scoring import reobserve, revise, score, self_reflect

__all__ = [
    "choose_evidence",
    "estimate_errors",
    "measure_evidence",
    "opening",
    "render_views",
    "reobserve",
    "retrieve_prototypes",
    "retrieve_rules",
    "review_scores",
    "review_uncertain",
    "revise",
    "score",
    "self_reflect",
]
