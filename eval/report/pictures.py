"""The pictures of one case: the photo's crop, and overlay and side view of the critic's best and worst."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from agent.types import GroupCritique
from eval.report.page import ReportCase, ShownHypothesis
from hmr.body.model import Body
from hmr.images.crops import crop_image
from hmr.render.overlay import overlay, side_view, zoom
from hmr.types import Hypotheses, Renderer, Sample

__all__ = ["picture_case"]

CROP_SCALE = 1.35  # room about the person, so that a misplaced limb stays in the picture


@torch.no_grad()
def picture_case(
    title: str,
    sample: Sample,
    hypotheses: Hypotheses,
    critique: GroupCritique,
    body: Body,
    renderer: Renderer,
    errors_mm: Sequence[float] | None = None,
    size: int = 288,
) -> ReportCase:
    """A case of the report, drawn; a group in which all judging failed shows its photo alone."""
    square = sample.box.square(CROP_SCALE)
    photo = crop_image(sample.image, square, size)
    roles = best_and_worst(critique.scores)
    errors = None if errors_mm is None else tuple(errors_mm)
    if not roles:
        return ReportCase(title, photo, critique, (), errors)
    posed = body(hypotheses.params[torch.tensor(list(roles))])
    vertices, pelvis = posed.vertices_cam_m.cpu().numpy(), posed.joints_cam_m[:, 0].cpu().numpy()
    faces = body.faces.cpu().numpy()
    frame = renderer.render(vertices, faces, zoom(sample.camera.crop(square, size)))
    sides = side_view(vertices, faces, pelvis, renderer, size)
    shown = [
        ShownHypothesis(hypothesis, role, overlay(photo, frame, index=row), sides[row])
        for row, (hypothesis, role) in enumerate(roles.items())
    ]
    return ReportCase(title, photo, critique, tuple(shown), errors)


def best_and_worst(scores: Sequence[float | None]) -> dict[int, str]:
    """Role of the hypotheses to show, by index; ties go to the lower index, one score alone is the best."""
    known = [(score, index) for index, score in enumerate(scores) if score is not None]
    if not known:
        return {}
    order = np.argsort([-score for score, _ in known], kind="stable")
    ends = {known[order[-1]][1]: "worst", known[order[0]][1]: "best"}
    return {index: ends[index] for index in sorted(ends, key=lambda index: ends[index])}
