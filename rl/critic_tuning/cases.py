"""Turns explored cases into training questions: the agent's own questions, with answers made from the ground truth.

Exploration stores the inputs of the critic for each case (measurements, rules, prototypes, tags:
`agent.exploration.learning.Explored`) and its true errors. Here the pictures are drawn again and the questions are
built as the agent builds them: with shuffled labels, and in chunks with shared anchors if the group has more members
than a question may have pictures. The stored inputs are used unchanged, because a new retrieval would find the case
itself among the prototypes, with its rank in the text, and the critic would learn to copy it.

The answer is made from the errors of the hypotheses in the question, e_j at rank r_j of n, best first:

    score_j = 100 (1 - r_j / (n - 1))
    comment_j = the sentence of the metric m with the largest  max(0, rho_m) * share of the group that is below j in m

where rho_m is Spearman's rho of the metric with the true errors of this group. The comment therefore names the fault
that speaks most against the hypothesis among those that agree with the truth.

`Explored` exists only for labelled lab cases, and the errors are measured again here on the labelled scene; another
group than the one explored is rejected. Left out: the tasks `tag`, `reflect`, `revise` and `mine`, which have no known
true answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from agent.context import CritiqueSettings
from agent.exploration.learning import Explored, metric_agreement, ranks
from agent.pictures.panels import PANEL_PX, draw_views, photo_part, shown_at_once
from agent.prompts.answers import Verdict, keyed_by_label
from agent.prompts.question import Brief
from agent.scoring.ranking import label_names, label_orders, order_seed, split_order
from agent.types import Case
from agent.vlm.local.constrained_decoding import sanitise_string
from agent.vlm.protocol import Part
from hmr.body.model import Body
from hmr.metrics.errors import mpjpe_mm
from hmr.types import Hypotheses, Labelled, Renderer
from rl.critic_tuning.reward import has_ranking

__all__ = ["Question", "QuestionSettings", "questions_of"]

SAME_GROUP_MM = 0.5  # two measurements of an error differ by less: parameters are stored in single precision


@dataclass(frozen=True)
class QuestionSettings:
    """How questions are made. Raises ValueError if a question holds too few pictures for a ranking."""

    label_orders: int = 1
    max_images: int | None = 9  # per question, including the photograph
    comment_chars: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        if self.label_orders < 1:
            raise ValueError(f"label_orders must be at least 1, not {self.label_orders}")
        if self.max_images is not None and self.max_images < 4:
            raise ValueError(
                f"a ranking needs the photograph and 3 hypotheses: max_images must be at least 4, not {self.max_images}"
            )


@dataclass(frozen=True)
class Question:
    """A question in the form of the agent, the errors of its hypotheses, and the true answer as JSON."""

    case_id: str
    labels: tuple[str, ...]
    errors_mm: tuple[float, ...]  # by label
    parts: tuple[Part, ...]
    answer: str


def questions_of(
    case: Explored,
    labelled: Labelled,
    hypotheses: Hypotheses,
    body: Body,
    renderer: Renderer,
    settings: QuestionSettings,
) -> list[Question]:
    """All questions about one explored group.

    Raises ValueError if `hypotheses` is not the group that was explored, or if its errors give no ranking.
    """
    _check(case, labelled, hypotheses, body)
    brief = _with_pictures(case.brief, labelled, hypotheses, body, renderer)
    limit = shown_at_once(settings.max_images, brief.pictures) or len(hypotheses)
    seed, faults = order_seed(settings.seed, case.case_id), _largest_faults(case)
    questions = []
    for number, order in enumerate(label_orders(len(hypotheses), settings.label_orders, seed)):
        for chunk in split_order(order, limit, seed + number)[1]:
            labels = dict(zip(label_names(len(chunk)), chunk.tolist(), strict=True))
            errors = tuple(case.errors_mm[j] for j in labels.values())
            if has_ranking(errors):
                comments = [sanitise_string(faults[j], settings.comment_chars) for j in labels.values()]
                answer = _answer(tuple(labels), errors, comments)
                parts = tuple(brief.parts(labels, "score"))
                questions.append(Question(case.case_id, tuple(labels), errors, parts, answer))
    return questions


def _check(case: Explored, labelled: Labelled, hypotheses: Hypotheses, body: Body) -> None:
    if not has_ranking(case.errors_mm):
        raise ValueError(
            f"case {case.case_id} cannot be trained on: its {len(case.errors_mm)} errors give no ranking"
        )
    errors = mpjpe_mm(body.joints(hypotheses.params), labelled.truth.joints_cam_m[None]).tolist()
    if len(errors) != len(case.errors_mm) or not np.allclose(
        errors, case.errors_mm, rtol=0, atol=SAME_GROUP_MM
    ):
        raise ValueError(
            f"the hypotheses of case {case.case_id} are not those explored: their errors are "
            f"{_first_few(errors)} mm and were {_first_few(case.errors_mm)} mm; check the policy and the seed"
        )


def _with_pictures(
    brief: Brief, labelled: Labelled, hypotheses: Hypotheses, body: Body, renderer: Renderer
) -> Brief:
    margin = CritiqueSettings.view_margin
    view = hypotheses.camera.crop(labelled.sample.box.square(margin), PANEL_PX)
    case = Case.of(labelled.sample, hypotheses, body, renderer, view)
    return replace(brief, photo=photo_part(case, margin), views=draw_views(case, renderer, margin))


def _answer(labels: Sequence[str], errors_mm: Sequence[float], comments: Sequence[str]) -> str:
    """Compact JSON, as constrained decoding writes it."""
    scores = 100 * (1 - ranks(errors_mm) / (len(labels) - 1))
    verdicts = {
        label: Verdict(comment=comment, score=round(score, 1))
        for label, comment, score in zip(labels, comments, scores.tolist(), strict=True)
    }
    return keyed_by_label("score", Verdict, labels)(**verdicts).model_dump_json()


def _largest_faults(case: Explored) -> list[str]:
    """comment_j of the module's docstring; if no fault counts against j, the sentence of the metric with the largest
    rho."""
    agreement = metric_agreement(case)
    faults = []
    for j in range(len(case.errors_mm)):
        candidates = [
            (max(0.0, rho) * _share_below(item["values"], j), rho, item["sentences"][j])
            for item in case.brief.evidence
            if (rho := agreement.get(item["metric"])) is not None and item["values"][j] is not None
        ]
        faults.append(max(candidates, key=lambda candidate: candidate[:2], default=(0.0, 0.0, ""))[2])
    return faults


def _share_below(values: Sequence[float | None], j: int) -> float:
    """Share of the group with a lower value than j, whose value is not None."""
    own: Any = values[j]
    return sum(value is not None and value < own for value in values) / len(values)


def _first_few(errors_mm: Sequence[float]) -> str:
    return ", ".join(f"{error:.0f}" for error in errors_mm[:4]) + (", ..." if len(errors_mm) > 4 else "")
