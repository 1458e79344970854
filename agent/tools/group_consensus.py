"""How far is a hypothesis from what the group believes?

Pelvis-aligned joints are compared with their geometric median over the group (the point of least summed
distance, Weiszfeld 1937), which half the group must move to move far. No image is looked at: this is the
floor every other tool has to beat, and it is wrong wherever the whole group is.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from agent.tools.distances import distance_evidence, joints_root_m
from agent.types import Case, Evidence, Need

__all__ = ["GroupConsensus", "geometric_median"]

ITERATIONS = 20
NEAREST_M = 1e-3  # a point this near the median pulls no harder than from here


class GroupConsensus:
    """Mean distance of root-aligned joints from the group's geometric median, in millimetres."""

    name = "group_consensus"
    needs: frozenset[Need] = frozenset()

    def measure(self, case: Case) -> Evidence:
        middle = geometric_median(joints_root_m(case))
        return distance_evidence(
            case, self.name, middle, "the group's median", "where most of the group puts it"
        )


def geometric_median(points: Float[Tensor, "group *points dim"]) -> Float[Tensor, "*points dim"]:
    """The point of least summed distance to the group's, for each of `points`; same unit as the input."""
    median = points.mean(dim=0)
    for _ in range(ITERATIONS):
        pull = 1 / (points - median).norm(dim=-1, keepdim=True).clamp_min(NEAREST_M)
        median = (pull * points).sum(dim=0) / pull.sum(dim=0)
    return median
