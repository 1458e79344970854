"""How far is a hypothesis from what the group believes?

Pelvis-aligned joints are compared with their geometric median over the group (the point of least summed
distance, Weiszfeld 1937), which half the group must move to move far. No image is looked at: this is the
floor every other tool has to beat, and it is wrong wherever the whole group is.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from agent.tools.parts import JOINT_WORDS, LIMB_ENDING_AT, worst_parts
from agent.types import Case, Evidence, Need

__all__ = ["GroupConsensus", "geometric_median"]

FAULT_MM = 150.0
ITERATIONS = 20
NEAREST_M = 1e-3  # a point this near the median pulls no harder than from here


class GroupConsensus:
    """Mean distance of root-aligned joints from the group's geometric median, in millimetres."""

    name = "group_consensus"
    needs: frozenset[Need] = frozenset()

    def measure(self, case: Case) -> Evidence:
        joints_root_m = case.posed.joints_cam_m - case.posed.joints_cam_m[:, :1]
        distance_mm = 1000 * (joints_root_m - geometric_median(joints_root_m)).norm(dim=-1)
        return Evidence(
            tool=self.name,
            metric="group_consensus_mm",
            unit="mm",
            values=tuple(distance_mm.mean(dim=-1).tolist()),
            parts=worst_parts(distance_mm, FAULT_MM, LIMB_ENDING_AT),
            sentences=tuple(_sentence(row) for row in distance_mm),
        )


def geometric_median(points: Float[Tensor, "group *points dim"]) -> Float[Tensor, "*points dim"]:
    """The point of least summed distance to the group's, for each of `points`; same unit as the input."""
    median = points.mean(dim=0)
    for _ in range(ITERATIONS):
        pull = 1 / (points - median).norm(dim=-1, keepdim=True).clamp_min(NEAREST_M)
        median = (pull * points).sum(dim=0) / pull.sum(dim=0)
    return median


def _sentence(distance_mm: Float[Tensor, "24"]) -> str:
    joint = int(distance_mm.argmax())
    worst = float(distance_mm[joint])
    if worst <= FAULT_MM:
        return f"No joint is farther than {worst:.0f} mm from the group's median."
    return f"The {JOINT_WORDS[joint]} is {worst:.0f} mm from where most of the group puts it."
