"""Which readings of the landmark model are people: confidence, consistency, duplicates, boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hmr.detection.blazepose.landmarks import LANDMARK_NAMES, Landmarks
from hmr.detection.blazepose.regions import Region
from hmr.types import Box

__all__ = ["confidence", "is_on", "person_box", "plausible", "remove_duplicates", "seen", "sigma_px"]

_INDEX = {name: number for number, name in enumerate(LANDMARK_NAMES)}
TORSO = [_INDEX[f"{side}_{part}"] for part in ("shoulder", "hip") for side in ("left", "right")]
# Each limb: its ends, what hangs on the far end, and a length in metres that few people exceed
LIMBS = [
    (_INDEX[f"{side}_{near}"], [_INDEX[f"{side}_{name}"] for name in far], longest_m)
    for side in ("left", "right")
    for near, far, longest_m in (
        ("shoulder", ("elbow", "wrist", "pinky_knuckle", "index_knuckle", "thumb_knuckle"), 0.40),
        ("elbow", ("wrist", "pinky_knuckle", "index_knuckle", "thumb_knuckle"), 0.35),
        ("hip", ("knee", "ankle", "heel", "big_toe"), 0.55),
        ("knee", ("ankle", "heel", "big_toe"), 0.55),
    )
]
STRETCH = 1.5  # limbs near the camera look longer; the scale of the whole person is not exact
NEAR_MASK = 0.03  # a landmark may lie this far outside of the mask, in sides of the crop

# Deviation of a landmark, in sides of the crop: fitted to the differences between readings of photographs and of their
# mirror images (about 300 landmarks of people with a score above 0.8), as are the depths
SIGMA, PEAK_RATE, HIDDEN_RATE = 0.006, 2.6, 0.5

BOX_MARGIN = 0.4  # about the landmarks, for hair, fingers and skin in the mask; in lengths of the torso
CLEAR_PEAKS = (0.4, 0.6)  # mean peak of seen landmarks: below, no person has been seen; above, no other thing
SAME_TORSO = 0.5  # mean distance of shoulders and hips, in lengths of the larger torso
SAME_CROP = 2.5  # ratio of sides
SAME_MASK = 0.6  # of the smaller mask


def sigma_px(reading: Landmarks) -> Float[Tensor, "33"]:
    """A heatmap without a clear peak is spread wide; a hidden landmark, or one off the person, is guessed."""
    hidden = 1 - reading.visibility * plausible(reading)
    return SIGMA * reading.region.side * torch.exp(PEAK_RATE * (1 - reading.peak) + HIDDEN_RATE * hidden)


def confidence(reading: Landmarks) -> float:
    """That the reading is of a person, 0 to 1: the model's score, lowered where heatmaps have no clear peaks.

    The score alone is near 1 for some things that are no people; their peaks are low.
    """
    low, high = CLEAR_PEAKS
    mean_peak = (reading.visibility * reading.peak).sum() / reading.visibility.sum().clamp_min(1e-6)
    return reading.score * float(((mean_peak - low) / (high - low)).clamp(0, 1))


def plausible(reading: Landmarks) -> Float[Tensor, "33"]:
    """0 for landmarks at the far end of a limb that is too long, otherwise the mask's value at the landmark or near it:
    a limb of a neighbour is outside of a person's own mask."""
    offsets = torch.tensor([(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)])
    near = reading.points_px[:, None] + offsets * NEAR_MASK * reading.region.side
    values = reading.mask_at(near).amax(dim=1)
    scale = _pixels_per_metre(reading)
    for start, rows, longest_m in LIMBS:
        length_px = (reading.points_px[rows[0]] - reading.points_px[start]).norm()
        if length_px > STRETCH * longest_m * scale:
            values[rows] = 0.0
    return values.clamp(0, 1)


def _pixels_per_metre(reading: Landmarks) -> Float[Tensor, ""]:
    """Least squares between the landmarks and the world landmarks, weighted by visibility."""
    weights = reading.visibility[:, None]
    world, points = (
        values - (weights * values).sum(dim=0) / weights.sum()
        for values in (reading.world_m[:, :2], reading.points_px)
    )
    return (weights * world * points).sum() / (weights * world.square()).sum().clamp_min(1e-6)


def seen(reading: Landmarks, width: int, height: int) -> Float[Tensor, "33"]:
    """Probability that a landmark is visible in the photograph."""
    x, y = reading.points_px.unbind(dim=-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return reading.visibility * reading.presence * plausible(reading) * inside


def person_box(reading: Landmarks, width: int, height: int) -> Box | None:
    """The person's part of the photograph: the mask about the seen landmarks. None for a person outside of it."""
    points = reading.points_px[seen(reading, width, height) > 0.3]
    if len(points) < 2:
        return None
    (x0, y0), (x1, y1) = points.amin(dim=0).tolist(), points.amax(dim=0).tolist()
    margin = BOX_MARGIN * _torso_size(reading)
    around = Box(x0 - margin, y0 - margin, x1 + margin, y1 + margin)
    square = around.square()
    mask = torch.from_numpy(reading.upright_mask(square, 128)) > 0.5
    centers = (torch.arange(128) + 0.5) / 128 * square.side
    columns, rows = square.x0 + centers, square.y0 + centers
    mask &= ((columns > around.x0) & (columns < around.x1))[None]
    mask &= ((rows > around.y0) & (rows < around.y1))[:, None]
    if mask.any():
        x, y = columns[mask.any(dim=0)], rows[mask.any(dim=1)]
        x0, x1 = min(x0, float(x[0])), max(x1, float(x[-1]))
        y0, y1 = min(y0, float(y[0])), max(y1, float(y[-1]))
    x0, x1, y0, y1 = max(x0, 0.0), min(x1, float(width)), max(y0, 0.0), min(y1, float(height))
    return Box(x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def remove_duplicates(readings: Sequence[Landmarks]) -> list[Landmarks]:
    """Greedy, in the order given: a reading of a person who has been read before is left out."""
    kept: list[Landmarks] = []
    for reading in readings:
        if not any(_is_same(reading, other) for other in kept):
            kept.append(reading)
    return kept


def is_on(region: Region, person: Landmarks) -> bool:
    """Whether a crop of about the person's size is centred on the person: the middle of the hips lies in the mask."""
    small, large = sorted((region.side, person.region.side))
    center = torch.tensor([region.cx, region.cy], dtype=torch.float32)
    return large < SAME_CROP * small and float(person.mask_at(center)) > 0.5


def _is_same(a: Landmarks, b: Landmarks) -> bool:
    distance = (a.points_px[TORSO] - b.points_px[TORSO]).norm(dim=-1).mean()
    size = max(_torso_size(a), _torso_size(b))
    if distance > 2 * size:
        return False
    return bool(distance < SAME_TORSO * size) or _shared_mask(a, b) > SAME_MASK


def _torso_size(reading: Landmarks) -> float:
    """The longer diagonal between shoulders and hips."""
    points = reading.points_px
    return max(
        float((points[TORSO[0]] - points[TORSO[3]]).norm()),
        float((points[TORSO[1]] - points[TORSO[2]]).norm()),
    )


def _shared_mask(a: Landmarks, b: Landmarks) -> float:
    """Intersection of two masks, as a part of the smaller one."""
    areas, shared = [], []
    for one, other in ((a, b), (b, a)):
        centers = (torch.arange(48) + 0.5) / 48
        grid = one.region.to_image(torch.stack(torch.meshgrid(centers, centers, indexing="xy"), dim=-1))
        own, others = one.mask_at(grid) > 0.5, other.mask_at(grid) > 0.5
        areas.append(float(own.sum()) * one.region.side**2)
        shared.append(float((own & others).sum()) * one.region.side**2)
    smaller = 0 if areas[0] < areas[1] else 1
    return shared[smaller] / max(areas[smaller], 1e-6)
