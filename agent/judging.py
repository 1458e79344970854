"""Scoring one group from its brief: shuffle the labels, ask under each order, combine what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.briefing import Brief
from agent.context import CritiqueSettings
from agent.ranking import combine, label_names, label_orders
from agent.vlm.answers import Verdict, keyed_by_label
from agent.vlm.ask import ask
from agent.vlm.protocol import VLMBackend

__all__ = ["GroupScores", "score_group"]

Json = dict[str, Any]


@dataclass(frozen=True)
class GroupScores:
    """Scores by hypothesis, or None for the whole group and the reason."""

    scores: tuple[float | None, ...]
    comments: tuple[str, ...]
    rank_std: tuple[float, ...]
    reason: str
    replies: tuple[Json, ...]


def score_group(backend: VLMBackend, brief: Brief, count: int, settings: CritiqueSettings) -> GroupScores:
    """Score `count` hypotheses under `settings.permutations` label orders; orders that fail are left out."""
    names = label_names(count)
    model = keyed_by_label("score", Verdict, names)
    scorings, comments, replies, reason = [], (), (), ""
    for number, order in enumerate(label_orders(count, settings.permutations, settings.seed)):
        labels = {name: int(j) for name, j in zip(names, order, strict=True)}
        answer = ask(backend, "score", brief.parts(labels, "score"), model, settings.seed + number)
        replies += answer.replies
        if answer.value is None:
            reason = answer.reason
            continue
        verdicts = {j: getattr(answer.value, name) for name, j in labels.items()}
        scorings.append(np.array([verdicts[j].score for j in range(count)]))
        comments = comments or tuple(verdicts[j].comment for j in range(count))
    if not scorings:
        return GroupScores((None,) * count, ("",) * count, (0.0,) * count, reason, replies)
    score, rank_std = combine(scorings)
    return GroupScores(tuple(score.tolist()), comments, tuple(rank_std.tolist()), "", replies)
