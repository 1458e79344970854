"""Flaws of single records: coordinates far from the image, values that are not finite, and missing images.

Detectors and annotation tools write a wrong coordinate now and then. One keypoint at x = 1e6 makes a box, and with it a
crop, that does not fit in memory. Keypoints far from the image are ignored; a record whose box or body cannot be used
raises `FlawedRecord`, and is dropped and counted by its reason (hmr/datasets/annotated_set.py).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.reading.validate import NOT_FINITE, FlawedRecord, require
from hmr.datasets.annotation import Annotation, Dropped, Keypoints, box_of_xyxy
from hmr.types import Box

__all__ = ["Flaws", "box_of_keypoints", "ignored_keypoints", "usable"]

NO_KEYPOINT = "no keypoint with a confidence above 0 near the image"
MAX_NAMES = 3  # of missing images
FIELDS = ("dropped", "ignored_keypoints", "missing_images", "first_missing")  # of a set.json
# Both in longer sides of the image. A person close to the camera extends beyond the image, but not farther than this.
MAX_DISTANCE = 1.0
MAX_BOX = 4.0  # (1 + 2 * MAX_DISTANCE), times the enlargement of a box around keypoints


@dataclass
class Flaws:
    """Counts of records that were dropped, by reason, of keypoints that were ignored, and of images that are missing
    (each once, although several records may name it)."""

    dropped: Counter[str] = field(default_factory=Counter)
    ignored_keypoints: int = 0
    missing_images: int = 0
    first_missing: list[str] = field(default_factory=list)  # up to MAX_NAMES
    _missing: set[str] = field(default_factory=set, repr=False)

    def drop(self, record: Dropped) -> None:
        self.dropped[record.reason] += 1
        image = record.missing_image
        if image is None or image in self._missing:
            return
        self._missing.add(image)
        self.missing_images += 1
        self.first_missing = [*self.first_missing, image][:MAX_NAMES]

    def to_json(self) -> dict[str, Any]:
        return {**{name: getattr(self, name) for name in FIELDS}, "dropped": dict(self.dropped)}

    @staticmethod
    def of_json(content: Mapping[str, Any]) -> Flaws:
        """Of the content of a set.json. Raises ValueError if it lacks one of the fields."""
        require(content, FIELDS, "set.json")
        return Flaws(
            Counter(content["dropped"]),
            content["ignored_keypoints"],
            content["missing_images"],
            list(content["first_missing"]),
        )

    def lines(self) -> list[str]:
        """One line per reason, the most frequent first."""
        lines = [f"{count} records dropped: {reason}" for reason, count in self.dropped.most_common()]
        if self.ignored_keypoints:
            lines.append(f"{self.ignored_keypoints} keypoints ignored: far from the image or not finite")
        if self.missing_images:
            more = ", ..." if self.missing_images > len(self.first_missing) else ""
            lines.append(f"{self.missing_images} images missing: {', '.join(self.first_missing)}{more}")
        return lines


def box_of_keypoints(xyc: Float[np.ndarray, "joints 3"], size: tuple[int, int], what: str) -> Box:
    """The box around the keypoints (x, y, confidence) with a confidence above 0, without those far from the image."""
    usable_px = xyc[(xyc[:, 2] > 0) & _near(xyc[:, :2], size), :2]
    if len(usable_px) == 0:
        raise FlawedRecord(f"{what} has {NO_KEYPOINT}", NO_KEYPOINT)
    return box_of_xyxy((*usable_px.min(axis=0), *usable_px.max(axis=0)), what)


def usable(annotation: Annotation, size: tuple[int, int]) -> Annotation:
    """The annotation, with confidence and position 0 for keypoints far from an image of this size or not finite.

    Raises FlawedRecord if the box is outside the image or more than `MAX_BOX` times as large, if a value of the camera,
    the body or a known joint is not finite, or if nothing is left but ignored keypoints.
    """
    _check_box(annotation, size)
    if not all(bool(values.isfinite().all()) for values in _values(annotation)):
        raise FlawedRecord(f"{annotation.name} has {NOT_FINITE}", NOT_FINITE)
    keypoints = tuple(_without_far(each, size) for each in annotation.keypoints)
    left = annotation.smpl or annotation.joints or any(each.confidence.any() for each in keypoints)
    if not left and ignored_keypoints(annotation.keypoints, keypoints):
        raise FlawedRecord(f"{annotation.name} has {NO_KEYPOINT}", NO_KEYPOINT)
    return dataclasses.replace(annotation, keypoints=keypoints)


def ignored_keypoints(before: Sequence[Keypoints], after: Sequence[Keypoints]) -> int:
    """How many keypoints have lost their confidence."""
    pairs = zip(before, after, strict=True)
    return sum(int((one.confidence != other.confidence).sum()) for one, other in pairs)


def _check_box(annotation: Annotation, size: tuple[int, int]) -> None:
    box, (width, height) = annotation.box, size
    if not np.isfinite(astuple(box)).all():
        reason = NOT_FINITE
    elif box.side > MAX_BOX * max(size):
        reason = f"box more than {MAX_BOX:g} times as large as the image"
    elif box.x1 <= 0 or box.y1 <= 0 or box.x0 >= width or box.y0 >= height:
        reason = "box outside the image"
    else:
        return
    raise FlawedRecord(f"{annotation.name}: {reason}, {astuple(box)}", reason)


def _values(annotation: Annotation) -> list[Tensor]:
    """The values that must be finite: the joints that are known, the camera and the fitted body."""
    values = [joints.positions_m[joints.known] for joints in annotation.joints]
    if annotation.camera is not None:
        values.append(torch.tensor(astuple(annotation.camera)))
    if (fit := annotation.smpl) is not None:
        values += [fit.global_orient, fit.body_pose]
        values += [] if fit.betas is None else [fit.betas]
        values += [] if fit.placement is None else [fit.placement.turn, fit.placement.offset_m]
    return values


def _without_far(keypoints: Keypoints, size: tuple[int, int]) -> Keypoints:
    near = torch.from_numpy(_near(keypoints.positions_px.numpy(), size)) & keypoints.confidence.isfinite()
    if bool(near.all()):
        return keypoints
    confidence, positions_px = keypoints.confidence.clone(), keypoints.positions_px.clone()
    confidence[~near], positions_px[~near] = 0.0, 0.0
    return dataclasses.replace(keypoints, confidence=confidence, positions_px=positions_px)


def _near(points_px: Float[np.ndarray, "joints 2"], size: tuple[int, int]) -> Bool[np.ndarray, " joints"]:
    """Which points are in the image or at most `MAX_DISTANCE` of its longer side from it; false for NaN."""
    margin = MAX_DISTANCE * max(size)
    return np.all((points_px >= -margin) & (points_px <= np.array(size) + margin), axis=1)
