"""Calibration of the spread of a group: coverage of the ground truth, and the ratio of hidden to visible joints.

| here | symbol | definition |
|---|---|---|
| `coverage` | calibration_80 | share of the joint coordinates whose truth is within the central 80 % of M samples |
| `hidden_by_occluder` | | joints inside the image that are occluded by something other than the body itself |
| `hidden_over_visible` | | std of a joint where it is hidden over its std where it is visible, mean over joints |

`coverage` measures calibration in the sense of Gneiting et al. (JRSS-B 2007): the central 80 % of a calibrated
posterior contains the truth in 80 % of the cases, whatever its width; that of a posterior which is too narrow, less
often. The quantiles of a finite group are slightly too narrow: with linear interpolation, M samples from the true
distribution cover .8 (M - 1) / (M + 1) of it, .784 for M = 100.

Left out: joint calibration of several coordinates (three intervals of 80 % contain a joint far less often), and proper
scores such as the CRPS, which combine width and error.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hmr.metrics.errors import PELVIS, about_pelvis
from hmr.types import Truth

__all__ = ["LEVEL", "MIN_IMAGES", "coverage", "hidden_by_occluder", "hidden_over_visible"]

LEVEL = 0.8
MIN_IMAGES = 10  # with fewer, the mean std of a joint depends mostly on the images


def coverage(
    joints_cam_m: Float[Tensor, "group 24 3"], true_joints_cam_m: Float[Tensor, "24 3"], level: float = LEVEL
) -> float:
    """The share of the 23 x 3 coordinates whose truth is between the (1 -+ level) / 2 quantiles of the group.

    Both skeletons are pelvis-aligned, without the pelvis, along the camera's axes. The quantiles of each coordinate
    over the group are interpolated linearly (Hyndman and Fan's definition 7), and the bounds count as inside.
    """
    samples = about_pelvis(joints_cam_m)[:, PELVIS + 1 :]
    true = about_pelvis(true_joints_cam_m)[PELVIS + 1 :]
    tails = samples.new_tensor([(1 - level) / 2, (1 + level) / 2])
    low, high = torch.quantile(samples, tails, dim=0)
    return ((low <= true) & (true <= high)).to(samples.dtype).mean().item()


def hidden_by_occluder(truth: Truth) -> Bool[Tensor, "24"]:
    """Joints inside the image that are not visible (`Truth.visible` is also false for joints outside)."""
    column, row = truth.keypoints_px.floor().unbind(-1)
    inside = (column >= 0) & (column < truth.camera.width) & (row >= 0) & (row < truth.camera.height)
    return inside & ~truth.visible


def hidden_over_visible(
    std_hidden_mm: Float[np.ndarray, "images joints"],
    std_visible_mm: Float[np.ndarray, "images joints"],
    min_images: int = MIN_IMAGES,
) -> float | None:
    """mean_j (mean std of j over images where it is hidden) / (mean std of j over images where it is visible).

    An entry is NaN if the joint is not hidden, or not visible, in the image. Joints with fewer than `min_images` of
    either kind are ignored; None if no joint is left.
    """
    counts = np.minimum(*(np.isfinite(table).sum(axis=0) for table in (std_hidden_mm, std_visible_mm)))
    enough = counts >= min_images
    if not enough.any():
        return None
    hidden, visible = (np.nanmean(table[:, enough], axis=0) for table in (std_hidden_mm, std_visible_mm))
    return float(np.mean(hidden / visible))
