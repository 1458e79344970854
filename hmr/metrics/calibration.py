"""Whether the spread of a group means something: does it hold the truth, and is it wider where less is seen.

| here | symbol | definition |
|---|---|---|
| `coverage` | calibration_80 | share of the joint coordinates whose truth lies in the central 80 % of M samples |
| `hidden_by_occluder` | | joints inside the image that something other than the body itself hides |
| `hidden_over_visible` | | std of a joint where it is hidden over its std where it is seen, mean over joints |

The first is calibration in the sense of Gneiting et al. (JRSS-B 2007): a posterior that is right on the average holds
the truth in its central 80 % four times out of five, whatever its width; one that is too narrow holds it less often.
The order statistics of a finite group are a little narrow by themselves: with linear interpolation between them M
draws from the true distribution cover .8 (M - 1) / (M + 1) of it, .784 for M = 100.

Left out: calibration over sets of coordinates together (three intervals of 80 % hold a joint far less often), and
proper scores such as the CRPS, which mix width with error again.
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
MIN_IMAGES = 10  # a joint's mean std over fewer images says more of those images than of the joint


def coverage(
    joints_cam_m: Float[Tensor, "group 24 3"], true_joints_cam_m: Float[Tensor, "24 3"], level: float = LEVEL
) -> float:
    """The share of the 23 x 3 coordinates whose truth lies between the group's (1 -+ level) / 2 quantiles.

    Both skeletons pelvis-aligned, the pelvis left out, the camera's axes; the quantiles are those of one coordinate
    over the group, interpolated linearly (Hyndman and Fan's definition 7), the bounds themselves counted as inside.
    """
    samples = about_pelvis(joints_cam_m)[:, PELVIS + 1 :]
    true = about_pelvis(true_joints_cam_m)[PELVIS + 1 :]
    tails = samples.new_tensor([(1 - level) / 2, (1 + level) / 2])
    low, high = torch.quantile(samples, tails, dim=0)
    return ((low <= true) & (true <= high)).to(samples.dtype).mean().item()


def hidden_by_occluder(truth: Truth) -> Bool[Tensor, "24"]:
    """Joints that lie inside the image and are not visible: `Truth.visible` is false for those outside as well."""
    column, row = truth.keypoints_px.floor().unbind(-1)
    inside = (column >= 0) & (column < truth.camera.width) & (row >= 0) & (row < truth.camera.height)
    return inside & ~truth.visible


def hidden_over_visible(
    std_hidden_mm: Float[np.ndarray, "images joints"],
    std_visible_mm: Float[np.ndarray, "images joints"],
    min_images: int = MIN_IMAGES,
) -> float | None:
    """mean_j (mean over images that hide j of its std) / (mean over images that show j of its std).

    NaN where an image does not hide, or show, a joint. Joints with fewer than `min_images` of either kind do not
    count; None if none is left.
    """
    counts = np.minimum(*(np.isfinite(table).sum(axis=0) for table in (std_hidden_mm, std_visible_mm)))
    enough = counts >= min_images
    if not enough.any():
        return None
    hidden, visible = (np.nanmean(table[:, enough], axis=0) for table in (std_hidden_mm, std_visible_mm))
    return float(np.mean(hidden / visible))
