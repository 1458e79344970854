"""Stores what a person corrected in a critique, so that later critiques retrieve it."""

from __future__ import annotations

from agent.agent import CritiqueAgent
from agent.types import Correction, GroupCritique
from hmr.types import Sample
from memory.prototype_memory import Prototype
from memory.rule import Provenance, Rule
from memory.text_limits import MAX_TAGS, MAX_TEXT_CHARS

__all__ = ["learn_corrections"]

PERSON = "person"


def learn_corrections(agent: CritiqueAgent, sample: Sample, critique: GroupCritique) -> list[str]:
    """Add a prototype for every corrected hypothesis to the agent's memory, and the person's rules, which start in
    quarantine. Returns the ids of both.

    Raises FrozenMemoryError if the memory was opened to be read only.
    """
    if not critique.corrections:
        return []
    provenance = Provenance(kind=PERSON, backend=PERSON, case_id=sample.id)
    tags = critique.tags[:MAX_TAGS]
    texts = [correction.rule for correction in critique.corrections if correction.rule]
    rules = [Rule.create(text, tags, provenance) for text in texts]
    vector = agent.image_embedder(sample)
    prototypes = [
        (_prototype(critique, j, before, after), vector)
        for correction in critique.corrections
        for j, before, after in _scores(correction)
    ]
    with agent.rules.transaction():
        return [
            *agent.rules.add(rules, "written by a person in a review"),
            *agent.prototypes.add(prototypes),
        ]


def _scores(correction: Correction) -> list[tuple[int, float | None, float]]:
    return list(zip(correction.hypotheses, correction.before, correction.after, strict=True))


def _prototype(critique: GroupCritique, j: int, before: float | None, after: float) -> Prototype:
    values = {item.metric: item.values[j] for item in critique.evidence}
    was = "none" if before is None else f"{before:.0f}"
    return Prototype.create(
        case_id=critique.sample_id,
        rationale=f"Score {after:.0f} by a person, {was} by the critic. {critique.comments[j]}"[
            :MAX_TEXT_CHARS
        ],
        score=round(after, 2),
        tags=critique.tags[:MAX_TAGS],
        evidence={metric: value for metric, value in values.items() if value is not None},
        weights={},  # the agreement of metrics with true errors, which are unknown
    )
