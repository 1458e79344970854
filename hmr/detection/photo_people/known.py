"""A detector that does not read again the people whom it has found before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from common.storage.fingerprint import digest
from hmr.detection.protocol import detect_all, detector_digest
from hmr.types import BatchDetector, Box, Detection, Detector, Sample

__all__ = ["KnownPeople"]


class KnownPeople:
    """Reports the detection that is stored with a sample, and runs `detector` for every other box.

    boxes: those of the found people, by the id of their sample. Crops of test-time augmentation have the id of their
        sample, but not its box.
    """

    def __init__(self, detector: Detector, boxes: Mapping[str, Box]) -> None:
        self.detector, self.boxes = detector, dict(boxes)
        self.name = detector.name

    @property
    def is_flip_tested(self) -> bool:
        return isinstance(self.detector, BatchDetector) and self.detector.is_flip_tested

    def digest(self) -> str:
        return detector_digest(self.detector) or digest(self.name)

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        return self.detector.find(image)

    def detect(self, sample: Sample) -> Detection:
        return self.detect_batch([sample])[0]

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
        known = [self._known(sample) for sample in samples]
        others = [sample for sample, found in zip(samples, known, strict=True) if found is None]
        read = iter(detect_all(self.detector, others))
        return [next(read) if found is None else found for found in known]

    def _known(self, sample: Sample) -> Detection | None:
        return sample.detection if self.boxes.get(sample.id) == sample.box else None
