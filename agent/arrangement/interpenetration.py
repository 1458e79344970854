"""Interpenetration of bodies: the depth to which capsules of one person's parts go into another's, in millimetres.

Bodies are the capsules of `agent.tools.capsules`, as in `agent.tools.self_contact`, which gives their agreement with an
exact test of the skin. People may touch: a tolerance for soft tissue and for the capsules' own error is subtracted. The
value is the deepest penetration of each pair of people, summed over the pairs.
"""

from __future__ import annotations

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from agent.arrangement.types import ArrangementEvidence, PlacedPeople
from agent.tools.capsules import Capsules, fit_capsules, segment_distance
from agent.tools.parts import PART_NAMES
from hmr.types import NUM_JOINTS

__all__ = ["FAULT_MM", "TOUCH_M", "Interpenetration"]

TOUCH_M = 0.02
NOTHING_MM = 0.5  # a smaller depth is printed as none
FAULT_MM = 20.0


class Interpenetration:
    """Deepest penetration of each pair of people, summed over the pairs."""

    name = "interpenetration"

    def measure(self, people: PlacedPeople) -> ArrangementEvidence:
        pairs = list(combinations(range(len(people)), 2))
        depth_mm = body_penetration_mm(people, pairs)
        deepest, where = depth_mm.flatten(1).max(dim=1)
        worst = int(deepest.argmax())
        a, b = divmod(int(where[worst]), NUM_JOINTS)
        order = deepest.argsort(descending=True).tolist()
        faults = [row for pair in order if deepest[pair] > FAULT_MM for row in pairs[pair]]
        return ArrangementEvidence(
            tool=self.name,
            metric="interpenetration_mm",
            unit="mm",
            value=float(deepest.sum()),
            people=tuple(dict.fromkeys(faults)),
            sentence=_sentence(float(deepest[worst]), pairs[worst], PART_NAMES[a], PART_NAMES[b]),
        )


def body_penetration_mm(people: PlacedPeople, pairs: list[tuple[int, int]]) -> Float[Tensor, "pairs 24 24"]:
    """Penetration of each part of the first person of a pair into each part of the second."""
    capsules = fit_capsules(people.body).pose(people.posed.vertices_cam_m)
    near = [pair for pair, close in zip(pairs, _may_meet(capsules, pairs).tolist(), strict=True) if close]
    depth_mm = capsules.radius_m.new_zeros(len(pairs), NUM_JOINTS, NUM_JOINTS)
    if near:
        first, second = torch.tensor(near).unbind(dim=1)
        ends_m = capsules.ends_m.transpose(1, 2)
        shape = (len(near), NUM_JOINTS, NUM_JOINTS, 2, 3)
        distance_m = segment_distance(
            ends_m[first][:, :, None].expand(shape), ends_m[second][:, None].expand(shape)
        )
        reach_m = capsules.radius_m[first][:, :, None] + capsules.radius_m[second][:, None]
        rows = [pairs.index(pair) for pair in near]
        depth_mm[rows] = 1000 * (reach_m - distance_m - TOUCH_M).clamp_min(0)
    return depth_mm


def _may_meet(capsules: Capsules, pairs: list[tuple[int, int]]) -> Tensor:
    """Whether the boxes around two bodies overlap."""
    reach_m = capsules.radius_m[:, None, :, None]
    low = (capsules.ends_m - reach_m).amin(dim=(1, 2))
    high = (capsules.ends_m + reach_m).amax(dim=(1, 2))
    a, b = torch.tensor(pairs).unbind(dim=1)
    return ((low[a] < high[b]) & (low[b] < high[a])).all(dim=-1)


def _sentence(depth_mm: float, pair: tuple[int, int], part: str, other_part: str) -> str:
    if depth_mm < NOTHING_MM:
        return "No body passes through another."
    a, b = (f"{{{row}}}" for row in pair)
    return f"The {part} of {a} goes {depth_mm:.0f} mm into the {other_part} of {b}."
