"""A detector that returns the ground truth: an upper bound of what the tools can measure. For evaluation only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hmr.images.crops import crop_image
from hmr.types import JOINT_NAMES, NUM_JOINTS, Box, Detection, Sample, Truth

__all__ = ["GroundTruthDetector"]

MASK_SIZE = 64
SIGMA_PX = 1.0


class GroundTruthDetector:
    """True keypoints (confidence 1 where visible, 0 where hidden) and the true mask, by sample id; the mask is 0.5
    beyond the image's border. No 3D joints, because the true ones would be the answer.

    `is_flip_tested` is set because detections are looked up by sample id: a mirrored sample would get those of the
    original image.
    """

    name = "truth"
    uses_truth = True
    is_flip_tested = True

    def __init__(self, truths: Mapping[str, Truth]) -> None:
        self.truths = truths

    def find(self, image: np.ndarray) -> list[Box]:
        raise ValueError("the ground-truth detector has detections of samples only, not of photographs")

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
        return [self.detect(sample) for sample in samples]

    def detect(self, sample: Sample) -> Detection:
        truth, square = self.truths[sample.id], sample.box.square(1.2)
        mask = np.repeat(truth.mask[..., None].astype(np.uint8) * 255, 3, axis=-1)
        return Detection.from_points(
            JOINT_NAMES,
            truth.keypoints_px,
            torch.full((NUM_JOINTS,), SIGMA_PX),
            truth.visible.float(),
            mask=crop_image(mask, square, MASK_SIZE)[..., 0].astype(np.float32) / 255,
            mask_box=square,
        )
