"""Is the body drawn as the detector saw it, wherever it stands?

The reprojection of `agent.tools.reprojection` after every hypothesis was moved and scaled in the image to lie on the
keypoints as well as it can (weighted least squares, closed form):

    x_j -> s (x_j - x) + k      x, k: the w-weighted means of joints x_j and keypoints k_j
                                s: sum_j w_j (x_j - x)(k_j - k) / sum_j w_j |x_j - x|^2

A pose is judged about its own pelvis, and what the translation costs in the image hides what the limbs do: on lab
groups the rank correlation with MPJPE is .36 so, .26 without the move (docs/critics.md). A body off the image or of the
wrong size is no fault here; `reprojection` sees that.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from agent.tools.reprojection import keypoint_evidence, keypoint_weights, project_joints
from agent.types import Case, Evidence, Need

__all__ = ["KeypointLayout"]


class KeypointLayout:
    """Distance of joints from keypoints after the best move and scale in the image, in percent of the box."""

    name = "keypoint_layout"
    needs: frozenset[Need] = frozenset({"keypoints"})

    def measure(self, case: Case) -> Evidence:
        assert case.detection is not None, "the graph skips tools whose needs are not met"
        joints_px = project_joints(case)
        moved_px = _onto(
            joints_px, case.detection.keypoints_px.to(joints_px), keypoint_weights(case).to(joints_px)
        )
        return keypoint_evidence(case, self.name, "layout_percent_of_box", moved_px)


def _onto(
    joints_px: Float[Tensor, "group 24 2"], keypoints_px: Float[Tensor, "24 2"], weights: Float[Tensor, "24"]
) -> Float[Tensor, "group 24 2"]:
    """Every hypothesis moved and scaled onto the keypoints; one that is a single point stays a point."""
    share = weights[:, None]
    middle = (share * keypoints_px).sum(dim=0)
    about = joints_px - (share * joints_px).sum(dim=1, keepdim=True)
    agreement = (share * about * (keypoints_px - middle)).sum(dim=(1, 2), keepdim=True)
    extent = (share * about.square()).sum(dim=(1, 2), keepdim=True)
    return agreement / extent.clamp_min(1e-6) * about + middle
