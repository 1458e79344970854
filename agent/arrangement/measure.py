"""Places bodies in the frame of one camera, and runs the tools on an arrangement."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from agent.arrangement.common_ground import CommonGround
from agent.arrangement.common_scale import CommonScale
from agent.arrangement.interpenetration import Interpenetration
from agent.arrangement.occlusion_order import OcclusionOrder
from agent.arrangement.types import ArrangementEvidence, ArrangementTool, PlacedPeople
from agent.types import Missing
from common.redaction import reason_of
from hmr.body.model import Body
from hmr.detection.protocol import MIN_CONFIDENCE
from hmr.types import Box, Camera, Detection, Posed, Renderer

__all__ = ["TOOLS", "VIEW_PX", "measure", "place"]

TOOLS: tuple[ArrangementTool, ...] = (Interpenetration(), OcclusionOrder(), CommonGround(), CommonScale())
VIEW_PX = 256
VIEW_MARGIN = 1.05


def place(
    body: Body,
    posed: Posed,
    camera: Camera,
    renderer: Renderer,
    detections: Sequence[Detection | None],
) -> PlacedPeople:
    """Bodies (batch shape (people,)) in the frame of one camera, rendered each alone through a crop around all.

    A detection that is hardly of a person is left out.
    """
    view = camera.crop(_around(camera.project(posed.vertices_cam_m), camera).square(VIEW_MARGIN), VIEW_PX)
    frame = renderer.render(posed.vertices_cam_m.numpy(), body.faces.numpy(), view)
    known = tuple(one if one is not None and one.confidence >= MIN_CONFIDENCE else None for one in detections)
    return PlacedPeople(body, posed, camera, view, frame, known)


def _around(points_px: Float[Tensor, "people vertices 2"], camera: Camera) -> Box:
    """The part of the image in which there are bodies; the whole image if there are none in it."""
    limit = points_px.new_tensor([camera.width, camera.height])
    low = points_px.flatten(0, 1).amin(dim=0).clamp_min(0).minimum(limit)
    high = points_px.flatten(0, 1).amax(dim=0).clamp_min(0).minimum(limit)
    if (high - low < 1).any():
        low, high = torch.zeros_like(limit), limit
    return Box(*low.tolist(), *high.tolist())


def measure(
    people: PlacedPeople, numbers: Sequence[int], tools: Sequence[ArrangementTool] = TOOLS
) -> tuple[list[ArrangementEvidence], list[Missing]]:
    """The evidence of every tool, with the people's `numbers`; a tool that fails is missing."""
    evidence, missing = [], []
    for tool in tools:
        # A tool may be a user's own: an exception affects only its own evidence.
        try:
            item = tool.measure(people)
            if item.value is not None and not math.isfinite(item.value):
                raise ValueError("gave a value that is not a finite number")
            evidence.append(item.for_people(numbers))
        except Exception as error:  # noqa: BLE001
            missing.append(Missing(tool.name, reason_of(error), broken=True))
    return evidence, missing
