"""Measures of hypotheses for a person without ground truth: how well they fit what was read of the photograph.

| measure                   | of         | meaning                                                                 |
|---------------------------|------------|-------------------------------------------------------------------------|
| `reprojection_px`         | hyp0, mean | mean distance of projected joints from the detector's points, over joints|
|                           |            | that it calls visible                                                   |
| `reprojection_percent`    | hyp0, mean | the same in percent of the box's side                                   |
| `annotated_px`, `_percent` | hyp0, mean | the same from annotated points, which no model has read                |
| `silhouette_mismatch`     | hyp0, mean | `agent.tools.silhouette`, from the detector's mask                      |
| `joint_limit_excess_deg`  | hyp0, mean | `agent.tools.joint_limits`                                              |
| `spread_mm`               | group      | `hmr.metrics.errors.spread_mm` over all joints                          |

A policy is given the detector's points, so a small reprojection error shows that it uses them, not that it is right. It
is not given the mask, but a critic reads it. Only annotated points are independent of both. None of the measures knows
a joint's depth.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agent.tools.joint_limits import JointLimits
from agent.tools.silhouette import Silhouette
from agent.types import Case, Evidence
from hmr.body.model import Body
from hmr.metrics.errors import spread_mm
from hmr.types import NUM_JOINTS, Detection, Hypotheses, Renderer, Sample

__all__ = ["MEASURES", "Measures", "measure_unlabelled"]

MEASURES = (
    "reprojection_px", "reprojection_percent", "annotated_px", "annotated_percent", "silhouette_mismatch",
    "joint_limit_excess_deg", "spread_mm",
)  # fmt: skip
VISIBLE = 0.5  # visibility above which a joint of a detector is compared
VIEW_PX, VIEW_MARGIN = 128, 1.25  # of the renders that the silhouette is compared in

Measures = Mapping[
    str, Mapping[str, float]
]  # measure -> "hyp0", "mean" or "group"; absent if it cannot be taken


@torch.no_grad()
def measure_unlabelled(
    sample: Sample, hypotheses: Hypotheses, body: Body, renderer: Renderer, annotated: Detection | None = None
) -> Measures:
    """The measures of a group for a sample with a stored detection. `annotated`: the person's annotated points."""
    detection = sample.detection
    assert detection is not None, "people of photographs are stored with their detections"
    case = _case(sample, hypotheses, body, renderer)
    joints_px = hypotheses.camera.project(case.posed.joints_cam_m)
    everything = torch.ones(NUM_JOINTS, dtype=torch.bool)
    measures = {"spread_mm": {"group": spread_mm(case.posed.joints_cam_m, everything).item()}}
    seen = detection.observed[:NUM_JOINTS] & (detection.keypoint_visibility > VISIBLE)
    measures |= _distances("reprojection", joints_px, detection, seen, sample.box.side)
    if annotated is not None:
        marked = annotated.observed[:NUM_JOINTS]
        measures |= _distances("annotated", joints_px, annotated, marked, sample.box.side)
    tools = [JointLimits(), *([Silhouette()] if detection.mask is not None else [])]
    for evidence in (tool.measure(case) for tool in tools):
        measures |= _of_evidence(evidence)
    return measures


def _case(sample: Sample, hypotheses: Hypotheses, body: Body, renderer: Renderer) -> Case:
    view = hypotheses.camera.crop(sample.box.square(VIEW_MARGIN), VIEW_PX)
    return Case.of(sample, hypotheses, body, renderer, view, sample.detection)


def _distances(
    name: str,
    joints_px: Float[Tensor, "group 24 2"],
    points: Detection,
    compared: Bool[Tensor, "24"],
    side_px: float,
) -> dict[str, dict[str, float]]:
    """Nothing if no joint can be compared."""
    if not compared.any():
        return {}
    distance_px = (joints_px - points.keypoints_px.to(joints_px))[:, compared].norm(dim=-1).mean(dim=-1)
    in_px = _of_group(distance_px)
    return {f"{name}_px": in_px, f"{name}_percent": {of: 100 * px / side_px for of, px in in_px.items()}}


def _of_evidence(evidence: Evidence) -> dict[str, dict[str, float]]:
    """Nothing if the tool could not measure every hypothesis."""
    values = [value for value in evidence.values if value is not None]
    return {evidence.metric: _of_group(torch.tensor(values))} if len(values) == len(evidence.values) else {}


def _of_group(values: Float[Tensor, "group"]) -> dict[str, float]:
    return {"hyp0": values[0].item(), "mean": values.mean().item()}
