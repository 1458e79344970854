"""Test-time augmentation of a detector: several crops of one person and their mirror images, averaged.

Evaluation scripts average over flipped images in the same way (HRNet, arXiv 1902.09212). A keypoint is the mean over
the crops with weights 1 / sigma^2. Its sigma is not reduced by averaging, because the errors of the crops are
correlated. The mask is that of the first crop. `python -m benchmarks.policy.gap` measures the error of a single crop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hmr.detection.protocol import detect_all
from hmr.types import OTHER_POINT, OTHER_SIDE, BatchDetector, Box, Detection, Detector, Sample

__all__ = ["detect_with_augmentation"]

SHIFT, SCALE = (
    0.05,
    0.08,
)  # standard deviations of position (of the box's side) and log size, as of detected boxes


def detect_with_augmentation(
    detector: Detector, sample: Sample, views: int, seed: int = 0, first: Detection | None = None
) -> Detection:
    """Detect on `views` crops, the first being the sample's box, and on their mirror images.

    Mirror images are left out if the detector is flip-tested.

    first: the detection for the sample's box, if already known.
    """
    rng = np.random.default_rng(seed)
    boxes = [sample.box, *(_jittered(sample.box, rng) for _ in range(views - 1))]
    crops = [dataclasses.replace(sample, box=box) for box in boxes]
    mirrored = (
        [] if isinstance(detector, BatchDetector) and detector.is_flip_tested else _mirror_images(crops)
    )
    known = [] if first is None else [first]
    detections = known + detect_all(detector, [*crops, *mirrored][len(known) :])
    width = float(sample.image.shape[1])
    return _fused([*detections[:views], *(_mirrored_back(other, width) for other in detections[views:])])


def _jittered(box: Box, rng: np.random.Generator) -> Box:
    (x, y), (dx, dy) = box.center, rng.normal(0, SHIFT, 2) * box.side
    half = np.array([box.x1 - box.x0, box.y1 - box.y0]) / 2 * np.exp(rng.normal(0, SCALE))
    left, top, right, bottom = x + dx - half[0], y + dy - half[1], x + dx + half[0], y + dy + half[1]
    return Box(float(left), float(top), float(right), float(bottom))


def _mirror_images(crops: Sequence[Sample]) -> list[Sample]:
    """The crops in the mirror image of their photograph."""
    image = np.ascontiguousarray(crops[0].image[:, ::-1])
    width = image.shape[1]
    boxes = [Box(width - crop.box.x1, crop.box.y0, width - crop.box.x0, crop.box.y1) for crop in crops]
    given = crops[0].camera
    camera = dataclasses.replace(given, cx_px=width - given.cx_px)
    # a detection that is stored with the sample belongs to the image that is not mirrored
    return [
        dataclasses.replace(crop, image=image, box=box, camera=camera, detection=None)
        for crop, box in zip(crops, boxes, strict=True)
    ]


def _mirrored_back(detection: Detection, width: float) -> Detection:
    """A detection in the mirror image, in coordinates of the photograph."""
    joints = detection.joints_root_m
    return dataclasses.replace(
        detection,
        points_px=detection.points_px[OTHER_POINT] * torch.tensor([-1.0, 1.0]) + torch.tensor([width, 0.0]),
        sigma_px=detection.sigma_px[OTHER_POINT],
        visibility=detection.visibility[OTHER_POINT],
        depth_m=detection.depth_m[OTHER_POINT],
        depth_sigma_m=detection.depth_sigma_m[OTHER_POINT],
        joints_root_m=None if joints is None else joints[OTHER_SIDE] * torch.tensor([-1.0, 1.0, 1.0]),
    )


def _fused(detections: Sequence[Detection]) -> Detection:
    def column(name: str) -> Float[Tensor, "views points *rest"]:
        return torch.stack([getattr(each, name) for each in detections])

    weight, sigma_px = _weights(column("sigma_px"))
    depth_weight, depth_sigma_m = _weights(column("depth_sigma_m"))
    return dataclasses.replace(
        detections[0],
        points_px=(weight[..., None] * column("points_px")).sum(dim=0),
        sigma_px=sigma_px,
        visibility=(weight * column("visibility")).sum(dim=0),
        depth_m=(depth_weight * column("depth_m")).sum(dim=0),
        depth_sigma_m=depth_sigma_m,
        joints_root_m=_mean_joints([each.joints_root_m for each in detections]),
    )


def _weights(
    sigma: Float[Tensor, "views points"],
) -> tuple[Float[Tensor, "views points"], Float[Tensor, "points"]]:
    """Weights proportional to 1 / sigma^2 and the root mean variance; 0 and inf for points of infinite sigma."""
    precision = sigma**-2
    weight = precision / precision.sum(dim=0).clamp_min(torch.finfo(sigma.dtype).tiny)
    variance = torch.where(weight > 0, weight * sigma**2, 0.0).sum(dim=0)
    return weight, torch.where(precision.sum(dim=0) > 0, variance.sqrt(), torch.inf)


def _mean_joints(estimates: Sequence[Float[Tensor, "24 3"] | None]) -> Float[Tensor, "24 3"] | None:
    known = [joints for joints in estimates if joints is not None]
    return torch.stack(known).mean(dim=0) if known else None
