"""Reward functions for TRL: the value of a critic's reply, computed from the known errors of the group.

| reply                                   | `spearman_reward`                                        |
|-----------------------------------------|----------------------------------------------------------|
| every label scored from 0 to 100        | Spearman's rho of the scores with the negative errors    |
| the same, with all scores equal         | 0, because it ranks nothing                              |
| a reply that the agent could not read   | MALFORMED, below the worst ranking                       |
| any reply about a group without ranking | None, and TRL leaves the group out                       |

Replies are parsed as the agent parses them (`agent.scoring.ask.parse`): JSON inside prose is accepted, a missing or an
extra label is not. A group has no ranking if it has fewer than three hypotheses or if all errors are equal.

There are two kinds of group. In this project a group is the set of hypotheses of one photograph; rho is computed over
it. In GRPO (arXiv 2402.03300) a group is the set of replies to one question: TRL subtracts the mean reward of the
replies and divides by their standard deviation, and this advantage weights the tokens of a reply. Advantages of
hypotheses (`rl.advantages`) are not used here.

MALFORMED lies only a little below -1, because a larger distance would increase the standard deviation so much that
differences between good rankings would vanish.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.agreement import group_spearman
from agent.prompts.answers import Verdict, keyed_by_label
from agent.scoring.ask import parse
from agent.vlm.protocol import MalformedReply, Reply, checked_reply

__all__ = ["MALFORMED", "has_ranking", "spearman_reward", "well_formed"]

MALFORMED = -1.5

Completion = Sequence[dict[str, Any]]  # the messages of a reply, as TRL passes them: one, of the assistant


def spearman_reward(
    completions: Sequence[Completion],
    labels: Sequence[Sequence[str]],
    errors_mm: Sequence[Sequence[float]],
    **others: Any,
) -> list[float | None]:
    """The reward of every reply by the table above; `labels` and `errors_mm` of its question are in the same order."""
    return [_reward(*row) for row in zip(completions, labels, errors_mm, strict=True)]


def well_formed(
    completions: Sequence[Completion], labels: Sequence[Sequence[str]], **others: Any
) -> list[float]:
    """1 for a reply that can be parsed, else 0. TRL gets it with weight 0, so that the log shows the share of them."""
    return [float(_scores(*row) is not None) for row in zip(completions, labels, strict=True)]


def has_ranking(errors_mm: Sequence[float]) -> bool:
    """Whether the true errors rank the group."""
    return group_spearman([-error for error in errors_mm], errors_mm) is not None


def _reward(completion: Completion, labels: Sequence[str], errors_mm: Sequence[float]) -> float | None:
    if not has_ranking(errors_mm):
        return None
    scores = _scores(completion, labels)
    if scores is None:
        return MALFORMED
    return group_spearman(scores, errors_mm) or 0.0


def _scores(completion: Completion, labels: Sequence[str]) -> list[float] | None:
    """The scores in the order of the labels; None for a malformed reply."""
    try:
        reply = checked_reply(Reply(completion[-1]["content"]))
        verdicts = parse(reply.text, keyed_by_label("score", Verdict, labels))
    except MalformedReply:
        return None
    return [getattr(verdicts, label).score for label in labels]
