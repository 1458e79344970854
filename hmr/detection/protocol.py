"""Functions on any detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from hmr.images.photographs import sample_of
from hmr.types import BatchDetector, Box, Camera, Detection, Detector, Sample

__all__ = [
    "CERTAIN_CONFIDENCE", "MIN_CONFIDENCE", "FoundPerson", "PersonFinder", "detect_all", "detect_people",
    "detector_digest",
]  # fmt: skip

MIN_CONFIDENCE = 0.2  # of a detection; below it the box is taken to hold no person
CERTAIN_CONFIDENCE = 0.5  # below it a person is called uncertain


@runtime_checkable
class FoundPerson(Protocol):
    """A person that a detector has found and read."""

    @property
    def box(self) -> Box: ...

    @property
    def detection(self) -> Detection: ...


@runtime_checkable
class PersonFinder(Detector, Protocol):
    """A detector that reads people while it searches, so that `detect` need not be called on the boxes it finds."""

    def find_people(self, image: UInt8[np.ndarray, "height width 3"]) -> Sequence[FoundPerson]: ...


@runtime_checkable
class _Fingerprinted(Protocol):
    def digest(self) -> str: ...


def detector_digest(detector: Detector) -> str | None:
    """The digest of a detector's weights; None from one that gives none. Every built-in detector has one."""
    return detector.digest() if isinstance(detector, _Fingerprinted) else None


def detect_all(detector: Detector, samples: Sequence[Sample]) -> list[Detection]:
    """One detection per sample, in one batch if the detector can."""
    if isinstance(detector, BatchDetector):
        return detector.detect_batch(samples) if samples else []
    return [detector.detect(sample) for sample in samples]


def detect_people(
    detector: Detector, image: UInt8[np.ndarray, "height width 3"], camera: Camera
) -> list[tuple[Sample, Detection]]:
    """The people that the detector finds in an image, each as a sample with its detection."""
    if isinstance(detector, PersonFinder):
        found = detector.find_people(image)
        return [(sample_of(image, person.box, camera), person.detection) for person in found]
    samples = [sample_of(image, box, camera) for box in detector.find(image)]
    return list(zip(samples, detect_all(detector, samples), strict=True))
