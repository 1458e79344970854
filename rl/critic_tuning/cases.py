"""Explored cases as the questions that the agent asked, each with the answer that the truth gives.

Exploration keeps what a critic was told of a case (measurements, rules, prototypes, tags: `agent.exploration.learning.Explored`)
and its true errors. Here the pictures are drawn again and laid beside it, and the group is asked about as the agent
asks: shuffled labels, chunks about shared anchors where a question holds fewer pictures than the group has members.
What was told then is what is told now. Retrieved anew, a case would find itself among the prototypes, its true place
spelt out, and the critic would learn to copy it.

The answer is made from the errors of the hypotheses in the question, e_j at place r_j of n, best first:

    score_j = 100 (1 - r_j / (n - 1))
    comment_j = the sentence of the metric m with the largest  max(0, rho_m) * share of the group that is below j in m

with rho_m Spearman's rho of the metric with the true errors of this group: the fault that speaks against the
hypothesis and is not contradicted by the truth.

Truth: `Explored` is made from labelled lab cases alone, and its errors are measured again here on the labelled scene;
a group that was not the one explored is refused. Left out: the tasks `tag`, `reflect`, `revise` and `mine`, for which
no true answer is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from agent.context import CritiqueSettings
from agent.exploration.learning import Explored, metric_agreement, ranks
from agent.pictures.panels import PANEL_PX, draw_views, photo_part, shown_at_once
from agent.prompts.answers import Verdict, keyed_by_label
from agent.prompts.question import Brief
from agent.scoring.chunks import split_order
from agent.scoring.ranking import label_names, label_orders
from agent.types import Case
from agent.vlm.local.constrained_decoding import sanitise_string
from agent.vlm.protocol import Part
from hmr.body.model import Body
from hmr.metrics.errors import mpjpe_mm
from hmr.types import Hypotheses, Labelled, Renderer
from rl.critic_tuning.reward import has_ranking

__all__ = ["Asking", "Question", "questions_of"]

SAME_GROUP_MM = 0.5  # errors measured twice differ by less than this: parameters are kept in single precision


@dataclass(frozen=True)
class Asking:
    """How a group is asked about. Raises ValueError where too few pictures fit in a question to rank anything."""

    label_orders: int = 1
    max_images: int | None = 9  # in one question, the photograph among them
    comment_chars: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        if self.label_orders < 1:
            raise ValueError(f"label_orders must be at least 1, not {self.label_orders}")
        if self.max_images is not None and self.max_images < 4:
            raise ValueError(
                f"ranking takes a photograph and 3 hypotheses: max_images must be at least 4, not {self.max_images}"
            )


@dataclass(frozen=True)
class Question:
    """One question as the agent puts it, the errors of what it is about, and the true answer as JSON."""

    case_id: str
    labels: tuple[str, ...]
    errors_mm: tuple[float, ...]  # by label
    parts: tuple[Part, ...]
    answer: str


def questions_of(
    case: Explored, labelled: Labelled, hypotheses: Hypotheses, body: Body, renderer: Renderer, asking: Asking
) -> list[Question]:
    """Every question about one explored group.

    Raises ValueError if `hypotheses` is not the group that was explored, and if it has no truth to be ranked by.
    """
    _check(case, labelled, hypotheses, body)
    brief = _with_pictures(case.brief, labelled, hypotheses, body, renderer)
    limit = shown_at_once(asking.max_images, brief.pictures) or len(hypotheses)
    seed, faults = _seed(asking.seed, case.case_id), _largest_faults(case)
    questions = []
    for number, order in enumerate(label_orders(len(hypotheses), asking.label_orders, seed)):
        for chunk in split_order(order, limit, seed + number)[1]:
            labels = dict(zip(label_names(len(chunk)), chunk.tolist(), strict=True))
            errors = tuple(case.errors_mm[j] for j in labels.values())
            if has_ranking(errors):
                comments = [sanitise_string(faults[j], asking.comment_chars) for j in labels.values()]
                answer = _answer(tuple(labels), errors, comments)
                parts = tuple(brief.parts(labels, "score"))
                questions.append(Question(case.case_id, tuple(labels), errors, parts, answer))
    return questions


def _check(case: Explored, labelled: Labelled, hypotheses: Hypotheses, body: Body) -> None:
    if not has_ranking(case.errors_mm):
        raise ValueError(
            f"case {case.case_id} has no truth to learn from: its {len(case.errors_mm)} errors rank nothing"
        )
    errors = mpjpe_mm(body.joints(hypotheses.params), labelled.truth.joints_cam_m[None]).tolist()
    if len(errors) != len(case.errors_mm) or not np.allclose(
        errors, case.errors_mm, rtol=0, atol=SAME_GROUP_MM
    ):
        raise ValueError(
            f"the hypotheses of case {case.case_id} are not those explored: their errors are "
            f"{_few(errors)} mm and were {_few(case.errors_mm)} mm; is it the policy and the seed of the exploration?"
        )


def _with_pictures(
    brief: Brief, labelled: Labelled, hypotheses: Hypotheses, body: Body, renderer: Renderer
) -> Brief:
    margin = CritiqueSettings.view_margin
    with torch.no_grad():
        posed = body(hypotheses.params)
    view = hypotheses.camera.crop(labelled.sample.box.square(margin), PANEL_PX)
    frame = renderer.render(posed.vertices_cam_m.numpy(), body.faces.numpy(), view)
    case = Case(labelled.sample, hypotheses, body, posed, view, frame, None)
    return replace(brief, photo=photo_part(case, margin), views=draw_views(case, renderer, margin))


def _answer(labels: Sequence[str], errors_mm: Sequence[float], comments: Sequence[str]) -> str:
    """Compact, as constrained decoding writes it."""
    scores = 100 * (1 - ranks(errors_mm) / (len(labels) - 1))
    verdicts = {
        label: Verdict(comment=comment, score=round(score, 1))
        for label, comment, score in zip(labels, comments, scores.tolist(), strict=True)
    }
    return keyed_by_label("score", Verdict, labels)(**verdicts).model_dump_json()


def _largest_faults(case: Explored) -> list[str]:
    """The module's comment_j; where nothing speaks against j, what the metric nearest to the truth says of it."""
    agreement = metric_agreement(case)
    faults = []
    for j in range(len(case.errors_mm)):
        told = [
            (max(0.0, rho) * _share_below(item["values"], j), rho, item["sentences"][j])
            for item in case.brief.evidence
            if (rho := agreement.get(item["metric"])) is not None and item["values"][j] is not None
        ]
        faults.append(max(told, key=lambda found: found[:2], default=(0.0, 0.0, ""))[2])
    return faults


def _share_below(values: Sequence[float | None], j: int) -> float:
    """Share of the group that is better in this metric than j, which was measured."""
    own: Any = values[j]
    return sum(value is not None and value < own for value in values) / len(values)


def _seed(seed: int, case_id: str) -> int:
    """Another order of the labels for every case, or places in the list would be learned for what they are."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{case_id}".encode()).digest()[:4], "little")


def _few(errors_mm: Sequence[float]) -> str:
    return ", ".join(f"{error:.0f}" for error in errors_mm[:4]) + (", ..." if len(errors_mm) > 4 else "")
