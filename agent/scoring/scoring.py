"""Scoring one group from its brief: shuffle the labels, ask under each order, combine what comes back.

The orders, and the chunks of a group that is too large for one question, are asked as many at once as the backend
takes; what comes back is put together in their own order, so that threads change nothing but the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from agent.context import CritiqueSettings
from agent.pictures.panels import shown_at_once
from agent.prompts.answers import Verdict, keyed_by_label
from agent.prompts.question import Brief
from agent.scoring.ask import Answer, ask
from agent.scoring.chunks import merge_chunks, split_order
from agent.scoring.ranking import combine, label_names, label_orders
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


@dataclass(frozen=True)
class _Plan:
    """How one label order is asked: in one question, or in chunks that share their anchors."""

    anchors: Int[np.ndarray, "anchors"]
    chunks: Sequence[Int[np.ndarray, "_"]]  # hypotheses by label: A names the first
    seed: int


def score_group(backend: VLMBackend, brief: Brief, count: int, settings: CritiqueSettings) -> GroupScores:
    """Score `count` hypotheses under `settings.permutations` label orders; orders that fail are left out."""
    limit = _room(backend, brief, count)
    if limit < 2:
        reason = f"{backend.name} takes {backend.capabilities.max_images} images, too few to compare two hypotheses"
        return GroupScores((None,) * count, ("",) * count, (0.0,) * count, reason, ())
    orders = label_orders(count, settings.permutations, settings.seed)
    seeds = range(settings.seed, settings.seed + len(orders))
    plans = [_Plan(*split_order(o, limit, s), s) for o, s in zip(orders, seeds, strict=True)]
    answers = _ask_all(backend, brief, plans)
    replies = tuple(reply for order in answers for answer in order for reply in answer.replies)
    reasons = [answer.reason for order in answers for answer in order if answer.value is None]
    heard = [
        (plan, order)
        for plan, order in zip(plans, answers, strict=True)
        if all(a.value is not None for a in order)
    ]
    if not heard:
        return GroupScores((None,) * count, ("",) * count, (0.0,) * count, reasons[-1], replies)
    score, rank_std = combine([_scoring(plan, order) for plan, order in heard])
    comments = _comments(*heard[0], count)
    return GroupScores(tuple(score.tolist()), comments, tuple(rank_std.tolist()), "", replies)


def _room(backend: VLMBackend, brief: Brief, count: int) -> int:
    """Hypotheses in one question: without pictures there is room for all."""
    shown = shown_at_once(backend.capabilities.max_images, brief.pictures) if brief.views else None
    return count if shown is None else shown


def _ask_all(backend: VLMBackend, brief: Brief, plans: Sequence[_Plan]) -> list[list[Answer[Any]]]:
    """The answers by order and chunk."""
    questions = [(chunk, plan.seed) for plan in plans for chunk in plan.chunks]

    def put(question: tuple[Int[np.ndarray, "_"], int]) -> Answer[Any]:
        chunk, seed = question
        names = label_names(len(chunk))
        labels = dict(zip(names, chunk.tolist(), strict=True))
        return ask(
            backend, "score", brief.parts(labels, "score"), keyed_by_label("score", Verdict, names), seed
        )

    at_once = min(backend.capabilities.concurrency, len(questions))
    if at_once == 1:
        answers = iter([put(question) for question in questions])
    else:
        with ThreadPoolExecutor(at_once, "judge") as pool:
            answers = iter(list(pool.map(put, questions)))
    return [[next(answers) for _ in plan.chunks] for plan in plans]


def _scoring(plan: _Plan, answers: Sequence[Answer[Any]]) -> Float[np.ndarray, "group"]:
    scores = [np.array([verdict.score for verdict in _verdicts(answer)]) for answer in answers]
    if len(plan.chunks) > 1:
        return merge_chunks(plan.anchors, plan.chunks, scores)
    return scores[0][np.argsort(plan.chunks[0])]


def _comments(plan: _Plan, answers: Sequence[Answer[Any]], count: int) -> tuple[str, ...]:
    """What was said of each hypothesis; of an anchor, what was said first."""
    said: dict[int, str] = {}
    for chunk, answer in zip(plan.chunks, answers, strict=True):
        for j, verdict in zip(chunk.tolist(), _verdicts(answer), strict=True):
            said.setdefault(j, verdict.comment)
    return tuple(said[j] for j in range(count))


def _verdicts(answer: Answer[Any]) -> list[Verdict]:
    """In the order of the labels."""
    return list(vars(answer.value).values())
