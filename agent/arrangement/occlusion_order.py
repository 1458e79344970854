"""Order in depth: who hides whom in the arrangement, against what the detector sees.

Where the bodies of two people overlap in the image, the nearer one hides the other. Two observations tell which one is
nearer in the photograph:

- masks: a pixel of the overlap that belongs to one person's mask and not to the other's shows the first one. Its weight
  is the difference of the two probabilities, its unit the area of the smaller body.
- keypoints: a joint behind the other body should not be visible, and one before it may be. Its weight is how far its
  visibility is from 1/2, which says nothing, its unit the number of joints. A hidden joint before the other body counts
  half: its own body may hide it.

The value is the contradicted weight in percent of all weight. `PRIOR_WEIGHT` is added to the total, so that a few
pixels at an outline, which differ in any estimate, do not contradict an order. Pixels and joints without a clear order
in the arrangement have no weight. None if no two bodies overlap: their order cannot be seen.

Left out: objects that hide people, and hair and clothes beyond the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float

from agent.arrangement.types import ArrangementEvidence, PlacedPeople
from agent.tools.silhouette import mask_in_view
from hmr.types import NUM_JOINTS, Detection

__all__ = ["OcclusionOrder"]

APART_M = 0.05  # a smaller difference in depth is no order
PRIOR_WEIGHT = 0.1  # a tenth of the smaller body's area, or two joints
MIN_WEIGHT = 0.002  # below it there is no value
FAULT_PERCENT = 30.0
HIDDEN_IN_FRONT = 0.5  # weight of a hidden joint that the other body does not hide


@dataclass(frozen=True)
class _Contradiction:
    """Of one pair: the contradicted and the whole weight; `front`: the row that is nearer in most of the overlap."""

    pair: tuple[int, int]
    wrong: float
    weight: float
    front: int

    @property
    def percent(self) -> float:
        return 100 * self.wrong / (self.weight + PRIOR_WEIGHT)


class OcclusionOrder:
    """Weight of the pixels and joints that contradict the order in depth, in percent."""

    name = "occlusion_order"

    def measure(self, people: PlacedPeople) -> ArrangementEvidence:
        drawn = people.frame.mask
        overlapping = [(a, b) for a, b in combinations(range(len(people)), 2) if (drawn[a] & drawn[b]).any()]
        masks = {row: _person_mask(people, row) for row in {row for pair in overlapping for row in pair}}
        pairs = [_compare(people, pair, masks) for pair in overlapping]
        seen = sorted((pair for pair in pairs if pair.weight > MIN_WEIGHT), key=lambda pair: -pair.percent)
        value = None
        if seen:
            total = sum(pair.weight for pair in seen) + PRIOR_WEIGHT
            value = 100 * sum(pair.wrong for pair in seen) / total
        faults = [row for pair in seen if pair.percent > FAULT_PERCENT for row in pair.pair]
        return ArrangementEvidence(
            tool=self.name,
            metric="occlusion_order_percent",
            unit="%",
            value=value,
            people=tuple(dict.fromkeys(faults)),
            sentence=_sentence(seen),
        )


def _person_mask(people: PlacedPeople, row: int) -> Float[np.ndarray, "size size"] | None:
    """The detector's mask of a person in the view's pixels; None without one."""
    detection = people.detections[row]
    if detection is None or detection.mask is None:
        return None
    return mask_in_view(detection, people.view, people.camera).numpy()


def _compare(
    people: PlacedPeople, pair: tuple[int, int], masks: Mapping[int, Float[np.ndarray, "size size"] | None]
) -> _Contradiction:
    a, b = pair
    wrong, weight = _in_masks(people, pair, masks[a], masks[b])
    for row, other in (pair, pair[::-1]):
        part = _in_keypoints(people, row, other, people.detections[row])
        wrong, weight = wrong + part[0], weight + part[1]
    both = people.frame.mask[a] & people.frame.mask[b]
    gaps_m = people.frame.depth_m[a][both] - people.frame.depth_m[b][both]
    return _Contradiction(pair, wrong, weight, a if np.median(gaps_m) < 0 else b)


def _in_masks(
    people: PlacedPeople,
    pair: tuple[int, int],
    mask_a: Float[np.ndarray, "size size"] | None,
    mask_b: Float[np.ndarray, "size size"] | None,
) -> tuple[float, float]:
    """The contradicted and the whole weight of the pixels."""
    if mask_a is None or mask_b is None:
        return 0.0, 0.0
    drawn, depth_m = people.frame.mask[list(pair)], people.frame.depth_m[list(pair)]
    gap_m = depth_m[1] - depth_m[0]  # positive: the first one is nearer
    counted = drawn.all(axis=0) & (np.abs(gap_m) > APART_M)
    shown = (mask_a - mask_b)[counted]  # positive: the first one is seen
    area = max(int(drawn.sum(axis=(1, 2)).min()), 1)
    wrong = np.abs(shown)[shown * gap_m[counted] < 0].sum()
    return float(wrong / area), float(np.abs(shown).sum() / area)


def _in_keypoints(
    people: PlacedPeople, row: int, other: int, detection: Detection | None
) -> tuple[float, float]:
    """The same of the joints of `row` that lie within the outline of `other`."""
    if detection is None:
        return 0.0, 0.0
    joints_m, drawn = people.posed.joints_cam_m[row], people.frame.mask[other]
    columns, rows = people.view.project(joints_m).floor().long().unbind(dim=-1)
    size = drawn.shape[0]
    inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size) & detection.observed[:NUM_JOINTS]
    at = rows.clamp(0, size - 1).numpy(), columns.clamp(0, size - 1).numpy()
    gap_m = joints_m[:, 2].numpy() - people.frame.depth_m[other][at]  # positive: behind the other's surface
    over = inside.numpy() & drawn[at]
    return _joint_weights(gap_m[over], detection.keypoint_visibility.numpy()[over])


def _joint_weights(
    gap_m: Float[np.ndarray, "joints"], visible: Float[np.ndarray, "joints"]
) -> tuple[float, float]:
    behind, before = gap_m > APART_M, gap_m < -APART_M
    seen, hidden = (2 * visible - 1).clip(min=0), (1 - 2 * visible).clip(min=0)
    wrong = seen[behind].sum() + HIDDEN_IN_FRONT * hidden[before].sum()
    right = hidden[behind].sum() + seen[before].sum()
    return float(wrong / NUM_JOINTS), float((wrong + right) / NUM_JOINTS)


def _sentence(seen: list[_Contradiction]) -> str:
    if not seen:
        return "No two bodies overlap in the image."
    worst = seen[0]
    front = f"{{{worst.front}}}"
    back = f"{{{next(row for row in worst.pair if row != worst.front)}}}"
    if worst.percent > FAULT_PERCENT:
        return f"{front} is placed before {back}, but the photograph shows the opposite."
    return "Whoever is nearer hides the other, as in the photograph."
