"""A steadier reading of one photograph: the detector looks at other crops of it and at their mirror images.

Test-time augmentation, as evaluation scripts of the field flip their images (HRNet, arXiv 1902.09212). A keypoint is
the mean of its readings, each weighed by 1 / sigma^2; sigma stays as wide as a single reading's, for the readings
share their mistakes. The mask is the first look's. `python -m benchmarks.gap` says how far off one look is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hmr.data.mirror import OTHER_SIDE
from hmr.types import Box, Detection, Detector, Sample

__all__ = ["steady_look"]

SHIFT, SCALE = 0.05, 0.08  # standard deviations, of the box's side: how far detectors' boxes stray


def steady_look(detector: Detector, sample: Sample, views: int, seed: int = 0) -> Detection:
    """`views` crops, the first of them the sample's own box, each also mirrored."""
    rng = np.random.default_rng(seed)
    boxes = [sample.box, *(_moved(sample.box, rng) for _ in range(views - 1))]
    looks: list[Detection] = []
    for box in boxes:
        view = dataclasses.replace(sample, box=box)
        looks += [detector.look(view), _mirrored_look(detector, view)]
    return _fused(looks)


def _moved(box: Box, rng: np.random.Generator) -> Box:
    (x, y), (dx, dy) = box.center, rng.normal(0, SHIFT, 2) * box.side
    half = np.array([box.x1 - box.x0, box.y1 - box.y0]) / 2 * np.exp(rng.normal(0, SCALE))
    left, top, right, bottom = x + dx - half[0], y + dy - half[1], x + dx + half[0], y + dy + half[1]
    return Box(float(left), float(top), float(right), float(bottom))


def _mirrored_look(detector: Detector, sample: Sample) -> Detection:
    """What the detector sees in the mirror image, told in the photograph's own terms."""
    width, box = sample.image.shape[1], sample.box
    image = np.ascontiguousarray(sample.image[:, ::-1])
    mirror_box = Box(width - box.x1, box.y0, width - box.x0, box.y1)
    seen = detector.look(dataclasses.replace(sample, image=image, box=mirror_box))
    flip = torch.tensor([-1.0, 1.0])
    joints = seen.joints_root_m
    return dataclasses.replace(
        seen,
        keypoints_px=seen.keypoints_px[OTHER_SIDE] * flip + torch.tensor([float(width), 0.0]),
        sigma_px=seen.sigma_px[OTHER_SIDE],
        confidence=seen.confidence[OTHER_SIDE],
        joints_root_m=None if joints is None else joints[OTHER_SIDE] * torch.tensor([-1.0, 1.0, 1.0]),
    )


def _fused(looks: Sequence[Detection]) -> Detection:
    certainty = torch.stack([look.sigma_px for look in looks]) ** -2
    share = certainty / certainty.sum(dim=0)

    def mean(values: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(values))
        return (share.reshape(*share.shape, *[1] * (stacked.ndim - 2)) * stacked).sum(dim=0)

    return dataclasses.replace(
        looks[0],
        keypoints_px=mean([look.keypoints_px for look in looks]),
        sigma_px=mean([look.sigma_px**2 for look in looks]).sqrt(),
        confidence=mean([look.confidence for look in looks]),
        joints_root_m=_mean_joints([look.joints_root_m for look in looks]),
    )


def _mean_joints(readings: Sequence[Float[Tensor, "24 3"] | None]) -> Float[Tensor, "24 3"] | None:
    known = [joints for joints in readings if joints is not None]
    return torch.stack(known).mean(dim=0) if known else None
