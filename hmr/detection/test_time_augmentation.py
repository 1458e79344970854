"""A steadier reading of one photograph: the detector looks at other crops of it and at their mirror images.

Test-time augmentation, as evaluation scripts of the field flip their images (HRNet, arXiv 1902.09212). A keypoint is
the mean of its readings, each weighed by 1 / sigma^2; sigma stays as wide as a single reading's, for the readings
share their mistakes. The mask is the first look's. A detector that takes many crops in one pass is given them at once.
`python -m benchmarks.gap` says how far off one look is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hmr.policy.flip import OTHER_SIDE
from hmr.types import BatchDetector, Box, Detection, Detector, Sample

__all__ = ["detect_with_augmentation"]

SHIFT, SCALE = 0.05, 0.08  # standard deviations, of the box's side: how far detectors' boxes stray


def detect_with_augmentation(
    detector: Detector, sample: Sample, views: int, seed: int = 0, first: Detection | None = None
) -> Detection:
    """`views` crops, the first of them the sample's own box, each also mirrored unless the detector does so by itself.

    `first` is what it saw of the sample's own box, where somebody has looked already.
    """
    rng = np.random.default_rng(seed)
    boxes = [sample.box, *(_moved(sample.box, rng) for _ in range(views - 1))]
    crops = [dataclasses.replace(sample, box=box) for box in boxes]
    mirrored = (
        [] if isinstance(detector, BatchDetector) and detector.is_flip_tested else _mirror_images(crops)
    )
    known = [] if first is None else [first]
    seen = known + _looks(detector, [*crops, *mirrored][len(known) :])
    width = float(sample.image.shape[1])
    return _fused([*seen[:views], *(_mirrored_back(look, width) for look in seen[views:])])


def _looks(detector: Detector, crops: Sequence[Sample]) -> list[Detection]:
    if isinstance(detector, BatchDetector):
        return detector.detect_batch(crops)
    return [detector.detect(crop) for crop in crops]


def _moved(box: Box, rng: np.random.Generator) -> Box:
    (x, y), (dx, dy) = box.center, rng.normal(0, SHIFT, 2) * box.side
    half = np.array([box.x1 - box.x0, box.y1 - box.y0]) / 2 * np.exp(rng.normal(0, SCALE))
    left, top, right, bottom = x + dx - half[0], y + dy - half[1], x + dx + half[0], y + dy + half[1]
    return Box(float(left), float(top), float(right), float(bottom))


def _mirror_images(crops: Sequence[Sample]) -> list[Sample]:
    """The mirror image of the photograph that they share, with each of their boxes."""
    image = np.ascontiguousarray(crops[0].image[:, ::-1])
    width = image.shape[1]
    boxes = [Box(width - crop.box.x1, crop.box.y0, width - crop.box.x0, crop.box.y1) for crop in crops]
    return [dataclasses.replace(crop, image=image, box=box) for crop, box in zip(crops, boxes, strict=True)]


def _mirrored_back(seen: Detection, width: float) -> Detection:
    """What was seen in the mirror image, told in the photograph's own terms."""
    joints = seen.joints_root_m
    return dataclasses.replace(
        seen,
        keypoints_px=seen.keypoints_px[OTHER_SIDE] * torch.tensor([-1.0, 1.0]) + torch.tensor([width, 0.0]),
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
