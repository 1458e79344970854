"""A detector of keypoints and masks, combined with the 3D joints of another detector.

A detector trained on photographs finds keypoints better than the policy's encoder, but no 3D joints. Some of the
critic's tools need both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from hmr.types import BatchDetector, Box, Detection, Detector, Sample

__all__ = ["WithJoints3D", "detect_all"]


class WithJoints3D:
    """The detections of `detector`, with `joints_root_m` from `detector_3d`."""

    def __init__(self, detector: Detector, detector_3d: BatchDetector) -> None:
        self.detector, self.detector_3d = detector, detector_3d
        self.name = detector.name

    @property
    def is_flip_tested(self) -> bool:
        return isinstance(self.detector, BatchDetector) and self.detector.is_flip_tested

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        return self.detector.find(image)

    def detect(self, sample: Sample) -> Detection:
        return self.detect_batch([sample])[0]

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
        pairs = zip(detect_all(self.detector, samples), self.detector_3d.detect_batch(samples), strict=True)
        return [replace(detection, joints_root_m=other.joints_root_m) for detection, other in pairs]


def detect_all(detector: Detector, samples: Sequence[Sample]) -> list[Detection]:
    """One detection per sample, in one batch if the detector can."""
    if isinstance(detector, BatchDetector):
        return detector.detect_batch(samples)
    return [detector.detect(sample) for sample in samples]
