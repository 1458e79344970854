"""A detector that knows the truth: what the tools could do if nothing were left to see. For headroom figures only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hmr.body.model import Body
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.joints_3d import WithJoints3D
from hmr.images.crops import crop_image
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Box, Detection, Sample, Truth

__all__ = ["TrueDetector", "true_detections"]

MASK_SIZE = 64
SIGMA_PX = 1.0


class TrueDetector:
    """True keypoints (seen ones sure, hidden ones unsure) and the true mask, by sample id; beyond the image's border,
    where nobody knows, the mask is 0.5. No joints in space: the true ones would be the answer itself.

    It says that it has seen the mirror image too: asked for that by a sample's id, it would tell of the photograph.
    """

    name = "truth"
    uses_truth = True
    is_flip_tested = True

    def __init__(self, truths: Mapping[str, Truth]) -> None:
        self.truths = truths

    def find(self, image: np.ndarray) -> list[Box]:
        raise ValueError("the true detector knows samples, not photographs")

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
        return [self.detect(sample) for sample in samples]

    def detect(self, sample: Sample) -> Detection:
        truth, square = self.truths[sample.id], sample.box.square(1.2)
        mask = np.repeat(truth.mask[..., None].astype(np.uint8) * 255, 3, axis=-1)
        return Detection(
            keypoints_px=truth.keypoints_px,
            sigma_px=torch.full((24,), SIGMA_PX),
            confidence=truth.visible.float(),
            mask=crop_image(mask, square, MASK_SIZE)[..., 0].astype(np.float32) / 255,
            mask_box=square,
        )


def true_detections(truths: Mapping[str, Truth], policy: DiffusionPolicy, body: Body) -> WithJoints3D:
    """For an agent: the true detector, and in space what the policy reads."""
    return WithJoints3D(TrueDetector(truths), EmbeddedDetector(policy, body))
