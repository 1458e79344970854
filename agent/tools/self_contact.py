"""Self-penetration: depth to which capsules of body parts penetrate each other, in millimetres.

Parts may touch, and neighbouring parts always overlap. So a pair of parts counts only if they are at least three joints
apart (or are the two thighs), and only the depth beyond a tolerance for soft tissue and beyond the overlap that the two
capsules have in the rest pose (arms out or down), in which no body penetrates itself.

The exact computation, by libigl's winding numbers and distances of 691 skin points, takes 50 ms per posed body; this
one takes 0.2 ms. On 400 poses of the default body, half of them disturbed by 0.15 rad per joint, the rank correlation
of both is Spearman's rho 0.87 [0.84, 0.91], and penetrations deeper than 20 mm are detected with an AUC of 0.98:
`python -m benchmarks.critic.self_contact --poses 400`. Contacts of structures smaller than a limb are not detected.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from agent.tools.capsules import Capsules, fit_capsules, neutral_vertices, segment_distance
from agent.tools.parts import PART_NAMES, capitalise, worst_parts
from agent.types import Case, Evidence, Need
from hmr.body.model import Body
from hmr.types import NUM_JOINTS, PARENTS

__all__ = ["FAULT_MM", "SelfContact", "penetration_mm", "tested_pairs"]

SOFT_TISSUE_M = 0.01
NOTHING_MM = 0.5  # a smaller sum is printed as 0
FAULT_MM = 20.0  # of a part: the depth of hands on hips
MIN_JOINTS_APART = 3


class SelfContact:
    """Depth to which capsules of the body's parts penetrate each other, summed over the pairs."""

    name = "self_contact"
    metric = "self_penetration_mm"
    needs: frozenset[Need] = frozenset()

    def measure(self, case: Case) -> Evidence:
        pairs, depth_mm = tested_pairs(case.body)[0], penetration_mm(case.body, case.posed.vertices_cam_m)
        between_mm = depth_mm.new_zeros(len(case), NUM_JOINTS, NUM_JOINTS)
        between_mm[:, pairs[:, 0], pairs[:, 1]] = depth_mm
        blame_mm = between_mm.amax(dim=1).maximum(between_mm.amax(dim=2))
        return Evidence(
            tool=self.name,
            metric=self.metric,
            unit="mm",
            values=tuple(depth_mm.sum(dim=-1).tolist()),
            parts=worst_parts(blame_mm, FAULT_MM),
            sentences=tuple(_sentence(row, pairs) for row in depth_mm),
        )


def penetration_mm(body: Body, vertices_m: Float[Tensor, "batch vertices 3"]) -> Float[Tensor, "batch pairs"]:
    """Penetration of the capsules of each of `tested_pairs` beyond the allowed overlap."""
    pairs, allowed = tested_pairs(body)
    overlap_m, reach_m = _overlap(fit_capsules(body).pose(vertices_m), pairs)
    return 1000 * (overlap_m - allowed * reach_m - SOFT_TISSUE_M).clamp_min(0)


def _overlap(
    capsules: Capsules, pairs: Int[Tensor, "pairs 2"]
) -> tuple[Float[Tensor, "batch pairs"], Float[Tensor, "batch pairs"]]:
    """The overlap of each pair of capsules (negative: the gap between them), and the sum of their radii."""
    segments_m = capsules.ends_m.transpose(1, 2)
    distance_m = segment_distance(segments_m[:, pairs[:, 0]], segments_m[:, pairs[:, 1]])
    reach_m = capsules.radius_m[:, pairs].sum(dim=-1)
    return reach_m - distance_m, reach_m


@lru_cache(maxsize=4)
def tested_pairs(body: Body) -> tuple[Int[Tensor, "pairs 2"], Float[Tensor, "pairs"]]:
    """The pairs of parts that must not meet, and the overlap that is allowed, relative to their summed radii."""
    thighs = (1, 2)
    pairs = [
        (a, b)
        for a in range(NUM_JOINTS)
        for b in range(a + 1, NUM_JOINTS)
        if _joints_apart(a, b) >= MIN_JOINTS_APART or (a, b) == thighs
    ]
    index = torch.tensor(pairs)
    overlap_m, reach_m = _overlap(fit_capsules(body).pose(neutral_vertices(body)), index)
    return index, (overlap_m / reach_m).clamp_min(0).amax(dim=0)


def _joints_apart(a: int, b: int) -> int:
    """The number of bones between joint a and joint b."""
    up_a, up_b = _ancestors(a), _ancestors(b)
    return next(up_a.index(joint) + up_b.index(joint) for joint in up_a if joint in up_b)


def _ancestors(joint: int) -> list[int]:
    return [joint] if PARENTS[joint] < 0 else [joint, *_ancestors(PARENTS[joint])]


def _sentence(depth_mm: Float[Tensor, "pairs"], pairs: Int[Tensor, "pairs 2"]) -> str:
    """Agrees with the value: any depth is stated, also one that is no fault of a part."""
    worst, total = int(depth_mm.argmax()), float(depth_mm.sum())
    if total < NOTHING_MM:
        return "No part of the body passes through another."
    a, b = (PART_NAMES[part] for part in pairs[worst].tolist())
    depth = float(depth_mm[worst])
    others = f", all parts together {total:.0f} mm" if total - depth >= NOTHING_MM else ""
    return capitalise(f"{b} goes {depth:.0f} mm into the {a}{others}.")
