"""The people of a keypoint file as a detector, so that everything that uses detectors takes such a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from common.storage.files import PathLike
from common.storage.fingerprint import digest
from hmr.detection.keypoints.files import FilePerson, read_keypoints
from hmr.images.photographs import photo_size
from hmr.types import Box, Detection, Sample

__all__ = ["KeypointFileDetector", "load_keypoint_file"]

MIN_CONFIDENCE = 0.2  # of a person that `find` reports
MIN_OVERLAP = 0.2  # of a box with that of a person in the file, intersection over union


class KeypointFileDetector:
    """The people of one photograph; whatever image it is given is taken to be that photograph, at any size.

    file: its name, and a digest of its content; people: in pixels of the photograph's file, which has this size.
    without_points: people of the file who are left out.
    """

    is_flip_tested = True  # a file says nothing of a mirror image, so nobody should ask

    def __init__(
        self,
        file: tuple[str, str],
        people: Sequence[FilePerson],
        size: tuple[int, int],
        without_points: int = 0,
    ) -> None:
        self.file, self.people, self.size, self.without_points = file, list(people), size, without_points
        self.name = f"keypoints:{file[0]}@{file[1][:8]}"

    def left_out(self) -> str:
        """A sentence about the people of the file whom `find` does not report; empty if there are none."""
        unsure = sum(person.detection.confidence < MIN_CONFIDENCE for person in self.people)
        reasons = {
            "without points or a usable box": self.without_points,
            f"below the confidence {MIN_CONFIDENCE}, unless in a --box": unsure,
        }
        parts = [f"{count} {reason}" for reason, count in reasons.items() if count]
        return f"{self.file[0]}: people left out: {', '.join(parts)}" if parts else ""

    def digest(self) -> str:
        return self.file[1]

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]:
        return [person.box for person in self.find_people(image)]

    def find_people(self, image: UInt8[np.ndarray, "height width 3"]) -> list[FilePerson]:
        """The people in the order of the file, without those of a confidence below MIN_CONFIDENCE."""
        scale = self._scale(image)
        sure = [person for person in self.people if person.detection.confidence >= MIN_CONFIDENCE]
        return [_scaled(person, scale) for person in sure]

    def detect(self, sample: Sample) -> Detection:
        return self.detect_batch([sample])[0]

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]:
        """The person whose box overlaps most with the sample's. Where nobody's does, no point is observed and the
        confidence is 0."""
        return [self._detect(sample) for sample in samples]

    def _detect(self, sample: Sample) -> Detection:
        people = [_scaled(person, self._scale(sample.image)) for person in self.people]
        best = max(people, key=lambda person: person.box.iou(sample.box), default=None)
        if best is None or best.box.iou(sample.box) < MIN_OVERLAP:
            none = torch.zeros(0)
            return Detection.from_points([], torch.zeros(0, 2), none, none, confidence=0.0)
        return best.detection

    def _scale(self, image: UInt8[np.ndarray, "height width 3"]) -> float:
        return image.shape[1] / self.size[0]


def _scaled(person: FilePerson, scale: float) -> FilePerson:
    box, detection = person.box, person.detection
    return FilePerson(
        Box(box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale),
        dataclasses.replace(
            detection, points_px=detection.points_px * scale, sigma_px=detection.sigma_px * scale
        ),
    )


def load_keypoint_file(path: PathLike, photo: PathLike) -> KeypointFileDetector:
    """The detector of a keypoint file (docs/reference/keypoint-file.md) for a photograph. Its name has the file's name
    and a digest of its content.

    Raises FileNotFoundError and ValueError if the file or the photograph cannot be read, or if they do not match.
    """
    size = photo_size(photo)
    people, without_points = read_keypoints(path, photo, size)
    content = digest(Path(path).read_bytes(), repr((Path(photo).name, size)))
    return KeypointFileDetector((Path(path).name, content), people, size, without_points)
