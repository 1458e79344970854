"""A person reviews scores before they are revised or accepted (LangGraph's interrupts).

`CritiqueSettings.interrupt_on` names the points: `revise` (before uncertain scores are asked for again), `scores`
(before any scores are accepted), `low_agreement` (the same, but only if the label orders disagree by more than
`dispersion_threshold`). A critique without scores is not reviewed.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from langgraph.runtime import Runtime
from langgraph.types import interrupt
from pydantic import TypeAdapter, ValidationError

from agent.context import CritiqueContext, CritiqueSettings
from agent.state import CritiqueState
from agent.types import Correction, ReviewAnswer, ReviewPoint, ReviewRequest
from memory.text_limits import check_text

__all__ = ["final_review", "parse_answer", "review_scores", "review_uncertain"]

Json = dict[str, Any]


def final_review(state: CritiqueState, settings: CritiqueSettings) -> ReviewPoint | None:
    """Why a person has to see the scores before they are accepted; None if nobody has to."""
    if None in state["scores"].values():
        return None
    if "scores" in settings.interrupt_on:
        return "scores"
    disagree = state["rank_dispersion"] > settings.dispersion_threshold
    return "low_agreement" if disagree and "low_agreement" in settings.interrupt_on else None


def review_uncertain(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> Json:
    """Ask a person about the uncertain scores. Those that they correct are not asked for again."""
    update = _review(state, "revise")
    corrected = {str(j) for item in update["corrections"] for j in item["hypotheses"]}
    return {**update, "uncertain": {j: why for j, why in state["uncertain"].items() if j not in corrected}}


def review_scores(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> Json:
    """Ask a person whether the scores are accepted."""
    return _review(state, final_review(state, runtime.context.settings) or "scores")


def _review(state: CritiqueState, point: ReviewPoint) -> Json:
    indices = sorted(state["scores"], key=int)
    request = ReviewRequest(
        point,
        scores=tuple(state["scores"][j] for j in indices),
        comments=tuple(state["comments"].get(j, "") for j in indices),
        uncertain={int(j): reason for j, reason in state["uncertain"].items()},
        rank_dispersion=state["rank_dispersion"],
    )
    answer = _ask(request, len(indices))
    if not answer.scores and not answer.rule:
        return {"corrections": state["corrections"]}
    correction = Correction(
        hypotheses=tuple(answer.scores),
        before=tuple(request.scores[j] for j in answer.scores),
        after=tuple(answer.scores.values()),
        rule=answer.rule,
    )
    return {
        "scores": {str(j): score for j, score in answer.scores.items()},
        "comments": {str(j): answer.comments.get(j, "Scored by a person.") for j in answer.scores},
        "rank_std": {**state["rank_std"], **{str(j): 0.0 for j in answer.scores}},
        "corrections": [*state["corrections"], asdict(correction)],
    }


def _ask(request: ReviewRequest, count: int) -> ReviewAnswer:
    """Ask until an answer is valid. LangGraph keeps every answer that it is given, so one that is refused is followed
    by another question, which says why."""
    while True:
        try:
            return parse_answer(interrupt(request.to_json()), count)
        except ValueError as error:
            request = replace(request, refused=str(error))


_ANSWER = TypeAdapter(ReviewAnswer)


def parse_answer(given: object, count: int) -> ReviewAnswer:
    """A person's answer about `count` hypotheses, from JSON: {"scores": {"2": 10}, "comments": {"2": "..."},
    "rule": "..."}; nothing (None or {}) accepts the scores.

    Raises ValueError for another hypothesis, a score that is not from 0 to 100, or a text that no rule may have.
    """
    try:
        answer = _ANSWER.validate_python(given or {})
    except ValidationError as error:
        details = "; ".join(": ".join([*map(str, item["loc"]), item["msg"]]) for item in error.errors()[:3])
        raise ValueError(f"a review has scores, comments and a rule; {details}") from error
    for j, score in answer.scores.items():
        if not 0 <= j < count:
            raise ValueError(f"there is no hypothesis {j}; the last one is {count - 1}")
        if not 0 <= score <= 100:
            raise ValueError(f"the score of hypothesis {j} must be from 0 to 100, not {score:g}")
    for text in filter(None, (answer.rule, *answer.comments.values())):
        check_text("a rule or a comment", text)
    return answer
