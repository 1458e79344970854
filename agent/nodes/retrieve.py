"""Recalling: which rules matter for an image like this, and how similar images were judged."""

from __future__ import annotations

from typing import Any

from langgraph.runtime import Runtime

from agent.context import CritiqueContext
from agent.nodes.image_facts import image_facts
from agent.prompts.answers import TagAnswer
from agent.prompts.question import prototype_json, question, rule_json
from agent.scoring.ask import ask
from agent.state import CritiqueState
from agent.types import RetrievedPrototype
from agent.vlm.protocol import DataPart

__all__ = ["retrieve_prototypes", "retrieve_rules"]


def retrieve_rules(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Tag the image, then fetch the rules that rank highest by relevance and UCB."""
    desk, settings = runtime.context.desk, runtime.context.settings
    case = desk.cases[state["case"]]
    parts = [*question("tag", desk.photo), DataPart("image_facts", image_facts(case))]
    answer = ask(desk.backend, "tag", parts, TagAnswer, settings.seed)
    tags = answer.value.tags if answer.value else []
    query = f"a person, {', '.join(tags)}"
    retrieved = desk.rules.retrieve(query, tags, settings.rules_per_case, frozen=desk.frozen)
    desk.retrieved_rules = tuple(retrieved)
    return {"tags": tags, "rules": [rule_json(item) for item in retrieved], "replies": list(answer.replies)}


def retrieve_prototypes(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Fetch the explored cases whose photographs look most like this one."""
    desk, settings = runtime.context.desk, runtime.context.settings
    embedding = desk.image_embedder(desk.sample)
    nearest = desk.prototypes.nearest(embedding, settings.prototypes_per_case)
    desk.retrieved_prototypes = tuple(RetrievedPrototype(prototype, cosine) for prototype, cosine in nearest)
    return {"prototypes": [prototype_json(item) for item in desk.retrieved_prototypes]}
