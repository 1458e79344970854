"""PCK, the percentage of correct keypoints: a 2D metric for photographs without 3D ground truth.

A keypoint is correct if its distance to the true one is below a threshold times the longer side of the person's box
(Yang and Ramanan, TPAMI 2013: alpha max(height, width)). As in HMR2 (4D-Humans `hmr2/utils/pose_utils.py`,
`EvaluatorPCK`, whose thresholds begin with .05, .1 and .2), the share is computed per joint over people, then averaged
over the joints. Joints without any label are ignored.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hmr.types import Box

__all__ = ["PCK_THRESHOLDS", "box_sides_px", "correct_share", "is_correct", "pck", "pck_by_joint"]

PCK_THRESHOLDS = (0.05, 0.1, 0.2)


def is_correct(
    pred_px: Float[Tensor, "*#batch joints 2"],
    true_px: Float[Tensor, "*#batch joints 2"],
    side_px: Float[Tensor, "*#batch"],
    threshold: float,
) -> Bool[Tensor, "*#batch joints"]:
    """Whether each keypoint is closer to the true one than `threshold` times the side of the box."""
    return (pred_px - true_px).norm(dim=-1) < threshold * side_px[..., None]


def correct_share(
    correct: Float[Tensor, "people joints"], known: Bool[Tensor, "people joints"]
) -> Float[Tensor, " joints"]:
    """For each joint, the mean of `correct` over the people in whom it is known; NaN if it is known in nobody."""
    return (correct * known).sum(dim=0) / known.sum(dim=0)


def pck_by_joint(
    pred_px: Float[Tensor, "people joints 2"],
    true_px: Float[Tensor, "people joints 2"],
    known: Bool[Tensor, "people joints"],
    side_px: Float[Tensor, " people"],
    threshold: float,
) -> Float[Tensor, " joints"]:
    """For each joint, the share of correct keypoints among the known ones; NaN if none is known."""
    return correct_share(is_correct(pred_px, true_px, side_px, threshold).float(), known)


def pck(
    pred_px: Float[Tensor, "people joints 2"],
    true_px: Float[Tensor, "people joints 2"],
    known: Bool[Tensor, "people joints"],
    side_px: Float[Tensor, " people"],
    threshold: float,
) -> Float[Tensor, ""]:
    """The mean of `pck_by_joint` over the joints with a known keypoint. Raises ValueError if no keypoint is known."""
    if not known.any():
        raise ValueError("PCK needs at least one known keypoint")
    return pck_by_joint(pred_px, true_px, known, side_px, threshold).nanmean()


def box_sides_px(boxes: list[Box]) -> Float[Tensor, " people"]:
    """The longer side of each box."""
    return torch.tensor([box.side for box in boxes])
