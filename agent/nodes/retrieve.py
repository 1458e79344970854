"""Retrieval nodes: rules that are relevant to the image, and prototypes of similar images."""

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
    """Tag the image, then retrieve the rules with the highest relevance and UCB."""
    resources, settings = runtime.context.resources, runtime.context.settings
    parts = [*question("tag", resources.photo), DataPart("image_facts", image_facts(resources.case))]
    answer = ask(resources.backend, "tag", parts, TagAnswer, settings.seed)
    tags = answer.value.tags if answer.value else []
    query = f"a person, {', '.join(tags)}"
    retrieved = resources.rules.retrieve(query, tags, settings.rules_per_case, frozen=resources.frozen)
    resources.retrieved_rules = tuple(retrieved)
    return {"tags": tags, "rules": [rule_json(item) for item in retrieved], **answer.to_update()}


def retrieve_prototypes(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Retrieve the explored cases with the most similar photographs."""
    resources, settings = runtime.context.resources, runtime.context.settings
    embedding = resources.image_embedder(resources.sample)
    nearest = resources.prototypes.nearest(embedding, settings.prototypes_per_case)
    resources.retrieved_prototypes = tuple(
        RetrievedPrototype(prototype, cosine) for prototype, cosine in nearest
    )
    return {"prototypes": [prototype_json(item) for item in resources.retrieved_prototypes]}
