"""PCK, the percentage of correct keypoints: a 2D metric for photographs without 3D ground truth.

A keypoint is correct if its distance to the true one is below a threshold times the longer side of the person's box.
As in HMR2 (4D-Humans `hmr2/utils/pose_utils.py`, thresholds .05 and .1), the share is computed per joint over people,
then averaged over the joints. Joints without any label are ignored.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hmr.types import Box

__all__ = ["PCK_THRESHOLDS", "box_sides_px", "pck", "pck_by_joint"]

PCK_THRESHOLDS = (0.05, 0.1)


def pck_by_joint(
    pred_px: Float[Tensor, "people joints 2"],
    true_px: Float[Tensor, "people joints 2"],
    known: Bool[Tensor, "people joints"],
    side_px: Float[Tensor, " people"],
    threshold: float,
) -> Float[Tensor, " joints"]:
    """For each joint, the share of correct keypoints among the known ones; NaN if none is known."""
    correct = (pred_px - true_px).norm(dim=-1) < threshold * side_px[:, None]
    return (correct & known).sum(dim=0) / known.sum(dim=0)


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
