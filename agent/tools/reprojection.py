"""Reprojection error: distance of projected joints from the detector's keypoints.

    quantity                  symbol  value
    distance in the image     r_j     |project(joint_j) - keypoint_j|, in percent of the person box's side
    weight                    w_j     confidence_j / (sigma_j^2 + FLOOR^2), divided by their sum
    robust distance           rho     r / sqrt(1 + (r / SATURATION)^2)
    value                             sum_j w_j rho(r_j)

rho is the square root of Geman and McClure's error (1987; SMPLify, arXiv 1607.08128, section 3.2): it is close to r for
small r and is bounded by SATURATION, so that one wrong keypoint does not dominate the sum. Distances are relative to
the box, because a person at half the distance has twice the size, and twice the error, in pixels.

Left out: a model of hand and foot tips. Keypoints of detectors and joints of a body differ by a few percent of the box
there, equally for all hypotheses of a group, which does not affect the ranking.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from agent.tools.parts import JOINT_WORDS, LIMB_ENDING_AT, capitalise, worst_parts
from agent.types import Case, Evidence, Need

__all__ = [
    "KeypointLayout",
    "Reprojection",
    "robust_percent",
]

SATURATION_PERCENT = 25.0
SIGMA_FLOOR_PERCENT = 1.5  # no detector agrees better with a body's joints
MIN_CONFIDENCE_SUM = 1.0  # summed over joints; below it there is no value
FAULT_PERCENT = 5.0  # about the width of a hand on a standing person


class Reprojection:
    """Confidence-weighted robust distance between projected joints and keypoints, in percent of the box."""

    name = "reprojection"
    metric = "reprojection_percent_of_box"
    needs: frozenset[Need] = frozenset({"keypoints"})

    def measure(self, case: Case) -> Evidence:
        return _keypoint_evidence(case, self.name, self.metric, project_joints(case))


def project_joints(case: Case) -> Float[Tensor, "group 24 2"]:
    """Pixels of the group's joints in the whole image."""
    return case.hypotheses.camera.project(case.posed.joints_cam_m)


def keypoint_weights(case: Case) -> Float[Tensor, "24"]:
    """w_j of the table above; they sum to 1, or to 0 if no joint is detected."""
    assert case.detection is not None, "the graph skips tools whose needs are not met"
    sigma_percent = case.detection.keypoint_sigma_px * (100 / case.sample.box.side)
    weights = case.detection.keypoint_visibility / (sigma_percent**2 + SIGMA_FLOOR_PERCENT**2)
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def robust_percent(percent: Float[Tensor, "*joints"]) -> Float[Tensor, "*joints"]:
    """rho of the table above."""
    return percent / (1 + (percent / SATURATION_PERCENT) ** 2).sqrt()


def _keypoint_evidence(
    case: Case, tool: str, metric: str, joints_px: Float[Tensor, "group 24 2"]
) -> Evidence:
    """Evidence with the value of the table above, for joints at `joints_px` in the image."""
    assert case.detection is not None, "the graph skips tools whose needs are not met"
    keypoints_px = case.detection.keypoints_px.to(joints_px)
    distance = (joints_px - keypoints_px).norm(dim=-1) * (100 / case.sample.box.side)
    weights = keypoint_weights(case).to(distance)
    values: tuple[float | None, ...] = (None,) * len(case)
    if case.detection.keypoint_visibility.sum() >= MIN_CONFIDENCE_SUM:
        values = tuple((robust_percent(distance) @ weights).tolist())
    # a joint with less than half of the mean weight is not used to find the part at fault
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
        return f"Clearly seen joints land at most {worst:.1f} % of the box from their keypoints."
    limb = LIMB_ENDING_AT[joint]
    return capitalise(f"{limb} lands {worst:.0f} % of the box away from the detected {JOINT_WORDS[joint]}.")


class KeypointLayout:
    """The reprojection error after each hypothesis is moved and scaled in the image to fit the keypoints (weighted
    least squares, closed form), in percent of the box:

        x_j -> s (x_j - x) + k      x, k: the w-weighted means of joints x_j and keypoints k_j
                                    s: sum_j w_j (x_j - x)(k_j - k) / sum_j w_j |x_j - x|^2

    MPJPE compares poses relative to the pelvis, and the error of the translation hides the error of the limbs: on lab
    groups the rank correlation with MPJPE is .36 with the alignment and .26 without (docs/results/superseded.md). A
    body outside the image or of the wrong size is penalised by `Reprojection` only.
    """

    name = "keypoint_layout"
    metric = "layout_percent_of_box"
    needs: frozenset[Need] = frozenset({"keypoints"})

    def measure(self, case: Case) -> Evidence:
        assert case.detection is not None, "the graph skips tools whose needs are not met"
        joints_px = project_joints(case)
        aligned_px = _align(
            joints_px, case.detection.keypoints_px.to(joints_px), keypoint_weights(case).to(joints_px)
        )
        return _keypoint_evidence(case, self.name, self.metric, aligned_px)


def _align(
    joints_px: Float[Tensor, "group 24 2"], keypoints_px: Float[Tensor, "24 2"], weights: Float[Tensor, "24"]
) -> Float[Tensor, "group 24 2"]:
    """Every hypothesis, moved and scaled to fit the keypoints; one whose joints coincide stays a point."""
    w = weights[:, None]
    center = (w * keypoints_px).sum(dim=0)
    centered = joints_px - (w * joints_px).sum(dim=1, keepdim=True)
    covariance = (w * centered * (keypoints_px - center)).sum(dim=(1, 2), keepdim=True)
    variance = (w * centered.square()).sum(dim=(1, 2), keepdim=True)
    return covariance / variance.clamp_min(1e-6) * centered + center
