"""Planted faults as a person can look at them: one sheet a group, with the panels that a judge with eyes is shown."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8

from agent.panels import PANEL_PX, draw_views
from agent.types import Case
from eval.planted_faults import Judged, PlantedGroup
from hmr.body import Body
from hmr.render.overlay import crop_image, montage, panel, score_color
from hmr.types import Renderer

__all__ = ["fault_sheet"]

COLUMNS = 2


def fault_sheet(
    group: PlantedGroup, judged: Judged, body: Body, renderer: Renderer, margin: float
) -> UInt8[np.ndarray, "height width 3"]:
    """Photograph, overlay and side view of each hypothesis with its score and its name, the best first."""
    photo = crop_image(group.sample.image, group.sample.box.square(margin), PANEL_PX)
    views = dict(
        zip(group.names, draw_views(_case(group, body, renderer, margin), renderer, margin), strict=True)
    )
    names = [name for name, _ in judged.ranking] or list(group.names)
    panels = []
    for name in names:
        score, view = judged.scores[name], views[name]
        badge = "?" if score is None else f"{score:.0f}"
        panels.append(panel(photo, view.overlay, view.side, badge, name, score_color(score)))
    return montage(panels, COLUMNS)


def _case(group: PlantedGroup, body: Body, renderer: Renderer, margin: float) -> Case:
    with torch.no_grad():
        posed = body(group.hypotheses.params)
    view = group.hypotheses.camera.crop(group.sample.box.square(margin), PANEL_PX)
    frame = renderer.render(posed.vertices_cam_m.numpy(), body.faces.numpy(), view)
    return Case(group.sample, group.hypotheses, body, posed, view, frame, None)
