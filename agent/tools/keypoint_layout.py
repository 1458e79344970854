"""Distance of projected joints from keypoints, after each hypothesis is moved and scaled to fit the keypoints.

This is the error of `agent.tools.reprojection` after a translation and a scaling in the image (weighted least squares,
closed form):

    x_j -> s (x_j - x) + k      x, k: the w-weighted means of joints x_j and keypoints k_j
                                s: sum_j w_j (x_j - x)(k_j - k) / sum_j w_j |x_j - x|^2

MPJPE compares poses relative to the pelvis, and the error of the translation in the image hides the error of the limbs:
on lab groups the rank correlation with MPJPE is .36 with the alignment and .26 without (docs/results/superseded.md). A
body outside the image or of the wrong size is not penalised here, but by `reprojection`.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from agent.tools.reprojection import keypoint_evidence, keypoint_weights, project_joints
from agent.types import Case, Evidence, Need

__all__ = ["KeypointLayout"]


class KeypointLayout:
    """Distance of joints from keypoints after the best translation and scaling, in percent of the box."""

    name = "keypoint_layout"
    needs: frozenset[Need] = frozenset({"keypoints"})

    def measure(self, case: Case) -> Evidence:
        assert case.detection is not None, "the graph skips tools whose needs are not met"
        joints_px = project_joints(case)
        aligned_px = _align(
            joints_px, case.detection.keypoints_px.to(joints_px), keypoint_weights(case).to(joints_px)
        )
        return keypoint_evidence(case, self.name, "layout_percent_of_box", aligned_px)


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
