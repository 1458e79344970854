"""What a critic's reply is worth, as reward functions for TRL: verifiable, since the errors of the group are known.

| reply                                   | `spearman_reward`                                        |
|-----------------------------------------|----------------------------------------------------------|
| every label scored from 0 to 100        | Spearman's rho of the scores with the negative errors    |
| the same, with all scores equal         | 0: it ranks nothing                                      |
| anything that the agent could not read  | MALFORMED, below the worst ranking                       |
| about a group that has no ranking       | None for every reply, and TRL leaves the group out       |

Reading a reply is the agent's own (`agent.scoring.ask.parse`): JSON in prose counts, a missing or an extra label does not.
A group has no ranking where fewer than three hypotheses stand in it or where all errors are equal.

Two kinds of group meet here. The house's is the group of hypotheses of one photograph: rho is taken over it. GRPO's
(arXiv 2402.03300) is the group of replies to one question: TRL subtracts the mean reward of the replies and divides by
their deviation, and that advantage weighs the tokens of a reply. No advantage of a hypothesis occurs in this room.

MALFORMED lies a little below -1 and no farther: a deviation that one bad reply blows up would leave nothing of the
difference between good rankings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.agreement import group_spearman
from agent.prompts.answers import Verdict, keyed_by_label
from agent.scoring.ask import parse
from agent.vlm.protocol import MalformedReply

__all__ = ["MALFORMED", "has_ranking", "spearman_reward", "well_formed"]

MALFORMED = -1.5

Completion = Sequence[dict[str, Any]]  # messages of a reply, as TRL hands them over: one, the assistant's


def spearman_reward(
    completions: Sequence[Completion],
    labels: Sequence[Sequence[str]],
    errors_mm: Sequence[Sequence[float]],
    **others: Any,
) -> list[float | None]:
    """The reward of every reply by the table above; `labels` and `errors_mm` are its question's, in one order."""
    return [_reward(*row) for row in zip(completions, labels, errors_mm, strict=True)]


def well_formed(
    completions: Sequence[Completion], labels: Sequence[Sequence[str]], **others: Any
) -> list[float]:
    """1 for a reply that can be read, else 0: given to TRL with weight 0, so that the logs tell how many there are."""
    return [float(_scores(*row) is not None) for row in zip(completions, labels, strict=True)]


def has_ranking(errors_mm: Sequence[float]) -> bool:
    """Whether the truth itself ranks the group."""
    return group_spearman([-error for error in errors_mm], errors_mm) is not None


def _reward(completion: Completion, labels: Sequence[str], errors_mm: Sequence[float]) -> float | None:
    if not has_ranking(errors_mm):
        return None
    scores = _scores(completion, labels)
    if scores is None:
        return MALFORMED
    return group_spearman(scores, errors_mm) or 0.0


def _scores(completion: Completion, labels: Sequence[str]) -> list[float] | None:
    """By label; None where the reply is malformed."""
    try:
        verdicts = parse(completion[-1]["content"], keyed_by_label("score", Verdict, labels))
    except MalformedReply:
        return None
    return [getattr(verdicts, label).score for label in labels]
