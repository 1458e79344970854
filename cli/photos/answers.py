"""A critique as the JSON that commands and the MCP server answer with."""

from __future__ import annotations

from typing import Any

from agent.expected_error import verdict_sentences
from agent.scoring.degenerate import DEGENERACY_SENTENCES
from agent.types import GroupCritique, lost_questions

__all__ = ["critique_answer"]


def critique_answer(critique: GroupCritique, detector: str) -> dict[str, Any]:
    """Scores by hypothesis with comments, and what is known about them; `detector`: its name, for sentences."""
    return {
        "scores": list(critique.scores),
        "comments": list(critique.comments),
        "reasons": list(critique.reasons),
        "errors": critique.errors.to_json() if critique.errors else None,
        "detector_confidence": critique.detector_confidence,
        "verdict": verdict_sentences(critique, detector),
        "questions": critique.questions.to_json(),
        "corrections": [vars(correction) for correction in critique.corrections],
        "degeneracy": DEGENERACY_SENTENCES[critique.degeneracy],
        "lost": lost_questions(critique.questions, critique.failures),
    }
