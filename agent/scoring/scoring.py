"""Scoring one group from its brief: shuffle the labels, ask under each order, and combine the answers.

The label orders, and the chunks of a group that is too large for one question, are asked concurrently, as far as the
backend allows. Answers are combined in the order of the questions, so threads do not change the result.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from agent.context import CritiqueSettings
from agent.events import Emit, ignore_event
from agent.pictures.panels import shown_at_once
from agent.prompts.answers import Verdict, keyed_by_label
from agent.prompts.question import Brief
from agent.scoring.ask import Answer, ask
from agent.scoring.degenerate import Degeneracy, degeneracy_of
from agent.scoring.ranking import combine, label_names, label_orders, merge_chunks, order_seed, split_order
from agent.types import QuestionCounts, QuestionFailure
from agent.vlm.protocol import VLMBackend
from common.stopping import stoppable

__all__ = ["AskLabels", "GroupScores", "score_group"]

Json = dict[str, Any]
# from the labels (label -> hypothesis) and a seed: an answer whose value has a Verdict per label
AskLabels = Callable[[Mapping[str, int], int], Answer[Any]]


@dataclass(frozen=True)
class GroupScores:
    """Scores by hypothesis, or None for the whole group. `failures` has the questions that were not answered,
    `degeneracy` why the scores say nothing about the hypotheses."""

    scores: tuple[float | None, ...]
    comments: tuple[str, ...]
    rank_std: tuple[float, ...]
    replies: tuple[Json, ...]
    failures: tuple[QuestionFailure, ...]
    questions: QuestionCounts
    degeneracy: Degeneracy = ""

    @property
    def reason(self) -> str:
        """Why there are no scores; empty if there are."""
        return self.failures[-1].reason if None in self.scores else ""


@dataclass(frozen=True)
class _Plan:
    """The questions of one label order: one, or several chunks that share their anchors."""

    anchors: Int[np.ndarray, "anchors"]
    chunks: Sequence[Int[np.ndarray, "_"]]  # hypotheses by label: A names the first
    seed: int


def score_group(
    backend: VLMBackend,
    brief: Brief,
    count: int,
    settings: CritiqueSettings,
    case_id: str,
    emit: Emit = ignore_event,
    ask_labels: AskLabels | None = None,
) -> GroupScores:
    """Score `count` hypotheses under `settings.permutations` label orders. An order with a failure is left out.

    case_id: of the sample; every case has label orders of its own.
    emit: is told when a request begins and ends.
    ask_labels: gets the scores of some labelled hypotheses; None for one question with everything in the brief.
    """
    ask_labels = ask_labels or partial(_ask_once, backend, brief, emit)
    limit = _max_hypotheses(backend, brief, count)
    if limit < 2:
        reason = f"{backend.name} takes {backend.capabilities.max_images} images, too few to compare two hypotheses"
        return _unscored(count, (), (QuestionFailure("unanswerable", reason, "score"),), QuestionCounts())
    seed = order_seed(settings.seed, case_id)
    orders = label_orders(count, settings.permutations, seed)
    seeds = range(seed, seed + len(orders))
    plans = [_Plan(*split_order(o, limit, s), s) for o, s in zip(orders, seeds, strict=True)]
    answers = _ask_all(backend, plans, ask_labels)
    flat = [answer for order in answers for answer in order]
    replies = tuple(reply for answer in flat for reply in answer.replies)
    failures = tuple(answer.failure for answer in flat if answer.failure)
    questions = sum((answer.counts for answer in flat), QuestionCounts())
    answered = [
        (plan, order)
        for plan, order in zip(plans, answers, strict=True)
        if all(answer.value is not None for answer in order)
    ]
    if not answered:
        return _unscored(count, replies, failures, questions)
    scorings = [_scores(plan, order) for plan, order in answered]
    score, rank_std = combine(scorings)
    degeneracy = degeneracy_of([_scores_by_label(order) for _, order in answered], scorings)
    comments = _comments(*answered[0], count)
    return GroupScores(
        tuple(score.tolist()), comments, tuple(rank_std.tolist()), replies, failures, questions, degeneracy
    )


def _unscored(
    count: int,
    replies: tuple[Json, ...],
    failures: tuple[QuestionFailure, ...],
    questions: QuestionCounts,
) -> GroupScores:
    nothing: tuple[None, ...] = (None,) * count
    return GroupScores(nothing, ("",) * count, (0.0,) * count, replies, failures, questions, "unscored")


def _max_hypotheses(backend: VLMBackend, brief: Brief, count: int) -> int:
    """How many hypotheses fit in one question; without images all of them."""
    shown = shown_at_once(backend.capabilities.max_images, brief.pictures) if brief.views else None
    return count if shown is None else shown


def _ask_once(
    backend: VLMBackend, brief: Brief, emit: Emit, labels: Mapping[str, int], seed: int
) -> Answer[Any]:
    model = keyed_by_label("score", Verdict, list(labels))
    return ask(backend, "score", brief.parts(labels, "score"), model, seed, emit)


def _ask_all(backend: VLMBackend, plans: Sequence[_Plan], ask_labels: AskLabels) -> list[list[Answer[Any]]]:
    """The answers by order and chunk."""
    questions = [(chunk, plan.seed) for plan in plans for chunk in plan.chunks]

    def ask_scores(question: tuple[Int[np.ndarray, "_"], int]) -> Answer[Any]:
        chunk, seed = question
        return ask_labels(dict(zip(label_names(len(chunk)), chunk.tolist(), strict=True)), seed)

    workers = min(backend.capabilities.concurrency, len(questions))
    if workers == 1:
        answers = iter([ask_scores(question) for question in questions])
    else:
        with stoppable(ThreadPoolExecutor(workers, "score")) as pool:
            # LangGraph's stream writer reads context variables
            contexts = [contextvars.copy_context() for _ in questions]
            answers = iter(list(pool.map(lambda own, asked: own.run(ask_scores, asked), contexts, questions)))
    return [[next(answers) for _ in plan.chunks] for plan in plans]


def _scores(plan: _Plan, answers: Sequence[Answer[Any]]) -> Float[np.ndarray, "group"]:
    scores = _scores_by_label(answers)
    if len(plan.chunks) > 1:
        return merge_chunks(plan.anchors, plan.chunks, scores)
    return scores[0][np.argsort(plan.chunks[0])]


def _scores_by_label(answers: Sequence[Answer[Any]]) -> list[Float[np.ndarray, "_"]]:
    """The scores of each chunk of a label order."""
    return [np.array([verdict.score for verdict in _verdicts(answer)]) for answer in answers]


def _comments(plan: _Plan, answers: Sequence[Answer[Any]], count: int) -> tuple[str, ...]:
    """The comment on each hypothesis; for an anchor, the first one."""
    comments: dict[int, str] = {}
    for chunk, answer in zip(plan.chunks, answers, strict=True):
        for j, verdict in zip(chunk.tolist(), _verdicts(answer), strict=True):
            comments.setdefault(j, verdict.comment)
    return tuple(comments[j] for j in range(count))


def _verdicts(answer: Answer[Any]) -> list[Verdict]:
    """In the order of the labels."""
    return list(vars(answer.value).values())
