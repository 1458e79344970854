"""Do the hypothesis' joints land where the detector saw them?

    quantity                  symbol  value
    distance in the image     r_j     |project(joint_j) - keypoint_j|, in percent of the person box's side
    weight                    w_j     confidence_j / (sigma_j^2 + FLOOR^2), divided by their sum
    robust distance           rho     r / sqrt(1 + (r / SATURATION)^2)
    value                             sum_j w_j rho(r_j)

rho is the square root of Geman and McClure's error (1987; SMPLify, arXiv 1607.08128, section 3.2): it reads
in percent where the fit is good and cannot pass SATURATION where one wrong keypoint would own the sum. The
box is the unit because a person twice as near is twice as large, and twice as wrong, in pixels.

Left out: the hand and foot tips' own anatomy; a detector's keypoints and a body's joints differ by a few
percent of the box, alike for all hypotheses of a group, so the ranking does not see it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from agent.tools.parts import JOINT_WORDS, LIMB_ENDING_AT, capitalise, worst_parts
from agent.types import Case, Evidence, Need

__all__ = ["Reprojection", "keypoint_evidence", "keypoint_weights", "project_joints"]

SATURATION_PERCENT = 25.0
SIGMA_FLOOR_PERCENT = 1.5  # no detector is better than this against a body's joints
MIN_CONFIDENCE_SUM = 1.0  # less than one joint in all was seen: nothing to compare with
FAULT_PERCENT = 5.0  # about a hand's width on a standing person


class Reprojection:
    """Confidence-weighted robust distance between projected joints and keypoints, in percent of the box."""

    name = "reprojection"
    needs: frozenset[Need] = frozenset({"keypoints"})

    def measure(self, case: Case) -> Evidence:
        return keypoint_evidence(case, self.name, "reprojection_percent_of_box", project_joints(case))


def project_joints(case: Case) -> Float[Tensor, "group 24 2"]:
    """Pixels of the group's joints in the whole image."""
    return case.hypotheses.camera.project(case.posed.joints_cam_m)


def keypoint_weights(case: Case) -> Float[Tensor, "24"]:
    """How far each keypoint is to be believed: w_j of the table above, summing to 1 (to 0 where nothing was seen)."""
    assert case.detection is not None, "the graph skips tools whose needs are not met"
    sigma_percent = case.detection.sigma_px * (100 / case.sample.box.side)
    weights = case.detection.confidence / (sigma_percent**2 + SIGMA_FLOOR_PERCENT**2)
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def keypoint_evidence(case: Case, tool: str, metric: str, joints_px: Float[Tensor, "group 24 2"]) -> Evidence:
    """The table's value, with the joints of every hypothesis where `joints_px` puts them in the image."""
    assert case.detection is not None, "the graph skips tools whose needs are not met"
    keypoints_px = case.detection.keypoints_px.to(joints_px)
    distance = (joints_px - keypoints_px).norm(dim=-1) * (100 / case.sample.box.side)
    weights = keypoint_weights(case).to(distance)
    values: tuple[float | None, ...] = (None,) * len(case)
    if case.detection.confidence.sum() >= MIN_CONFIDENCE_SUM:
        robust = distance / (1 + (distance / SATURATION_PERCENT) ** 2).sqrt()
        values = tuple((robust @ weights).tolist())
    # a joint that carries less than half an equal share of the weight does not decide who is at fault
    blame = torch.where(weights > 0.5 / len(weights), distance, 0.0)
    return Evidence(
        tool=tool,
        metric=metric,
        unit="%",
        values=values,
        parts=worst_parts(blame, FAULT_PERCENT, LIMB_ENDING_AT),
        sentences=tuple(_sentence(value, row) for value, row in zip(values, blame, strict=True)),
    )


def _sentence(value: float | None, blame_percent: Float[Tensor, "24"]) -> str:
    if value is None:
        return "The detector saw too few joints to compare with."
    joint = int(blame_percent.argmax())
    worst = float(blame_percent[joint])
    if worst <= FAULT_PERCENT:
        return f"Every clearly seen joint lands within {worst:.0f} % of the box of its keypoint."
    limb = LIMB_ENDING_AT[joint]
    return capitalise(f"{limb} lands {worst:.0f} % of the box away from the detected {JOINT_WORDS[joint]}.")
