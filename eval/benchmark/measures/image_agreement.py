"""Agreement of hypotheses with the image, against what the policy was not given.

| key                           | value for one hypothesis                                                         |
|-------------------------------|----------------------------------------------------------------------------------|
| `reprojection_detected_percent` | distance of projected joints from the keypoints of a detector, weighted by      |
|                               | visibility and certainty, in percent of the box (`agent.tools.reprojection`)     |
| `reprojection_true_percent`   | the same against the true keypoints of visible joints                            |
| `silhouette_iou`              | intersection over union of the rendered body with the true mask; higher is better |

The detector must not be the policy's: a policy reprojects well to the keypoints that it was given, right or wrong.
Pixels of the true body that an occluder hides count neither for nor against a hypothesis.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Bool, Float

from agent.tools.reprojection import Reprojection
from agent.types import Case
from eval.benchmark.measures.plausibility import values_of
from hmr.types import JOINT_NAMES, NUM_JOINTS, Detection, Truth

__all__ = ["AGREEMENT", "image_agreement", "silhouette_iou"]

AGREEMENT = ("reprojection_detected_percent", "reprojection_true_percent", "silhouette_iou")
SIGMA_PX = 1.0  # equal for all joints, so that only their visibility weights them


def image_agreement(
    case: Case, truth: Truth, true_body: Bool[np.ndarray, "height width"]
) -> dict[str, Float[np.ndarray, " group"]]:
    """The values of the table above for every hypothesis of a group, rendered through the camera of the whole image.

    true_body: the render of the true body without occluders.
    """
    certain = torch.full((NUM_JOINTS,), SIGMA_PX)
    known = Detection.from_points(JOINT_NAMES, truth.keypoints_px, certain, truth.visible.float())
    hidden = true_body & ~truth.mask
    return {
        "reprojection_detected_percent": _reprojection(case, case.detection),
        "reprojection_true_percent": _reprojection(case, known),
        "silhouette_iou": silhouette_iou(case.frame.mask, truth.mask, hidden),
    }


def silhouette_iou(
    masks: Bool[np.ndarray, "group height width"],
    true: Bool[np.ndarray, "height width"],
    ignored: Bool[np.ndarray, "height width"],
) -> Float[np.ndarray, " group"]:
    """Intersection over union of each mask with the true one, over the pixels that are not ignored."""
    both, either = masks & true & ~ignored, (masks | true) & ~ignored
    return both.sum(axis=(1, 2)) / either.sum(axis=(1, 2)).clip(min=1)


def _reprojection(case: Case, detection: Detection | None) -> Float[np.ndarray, " group"]:
    return values_of(Reprojection().measure(dataclasses.replace(case, detection=detection)))
