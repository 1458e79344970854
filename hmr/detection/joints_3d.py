"""Any detector of keypoints and masks, beside joints in space as the policy reads them.

A detector that was trained on photographs sees joints in the image better than the policy's own encoder does, and none
in space: together they have all that the critic's tools ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from hmr.types import BatchDetector, Box, Detection, Detector, Sample

__all__ = ["WithJoints3D"]


class WithJoints3D:
    """Sees what `detector` sees, and in space what `in_space` reads of the same samples."""

    def __init__(self, detector: Detector, in_space: BatchDetector) -> None:
        self.detector, self.in_space = detector, in_space
        self.name = detector.name

    @property
    def is_flip_tested(self) -> bool:
        return isinstance(self.detector, BatchDetector) and self.detector.is_flip_tested

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        return self.detector.find(image)

    def detect(self, sample: Sample) -> Detection:
        return self.detect_batch([sample])[0]

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
        seen, read = self._seen(samples), self.in_space.detect_batch(samples)
        return [replace(a, joints_root_m=b.joints_root_m) for a, b in zip(seen, read, strict=True)]

    def _seen(self, samples: Sequence[Sample]) -> list[Detection]:
        if isinstance(self.detector, BatchDetector):
            return self.detector.detect_batch(samples)
        return [self.detector.detect(sample) for sample in samples]
