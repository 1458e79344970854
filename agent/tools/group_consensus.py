"""Distance of a hypothesis from the consensus of its group.

Pelvis-aligned joints are compared with their geometric median over the group (the point of least summed distance,
Weiszfeld 1937), which is robust as long as fewer than half of the hypotheses are outliers. The image is not used: this
is the baseline for every other tool, and it is wrong wherever the whole group is.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from agent.tools.distances import distance_evidence, joints_root_m
from agent.types import Case, Evidence, Need

__all__ = ["GroupConsensus", "geometric_median"]

ITERATIONS = 20
MIN_DISTANCE_M = 1e-3  # bounds the weight of points close to the median


class GroupConsensus:
    """Mean distance of root-aligned joints from the group's geometric median, in millimetres."""

    name = "group_consensus"
    needs: frozenset[Need] = frozenset()

    def measure(self, case: Case) -> Evidence:
        median = geometric_median(joints_root_m(case))
        words = ("the group's median", "where most of the group puts it")
        return distance_evidence(case, self.name, median, *words)


def geometric_median(points: Float[Tensor, "group *points dim"]) -> Float[Tensor, "*points dim"]:
    """The point of least summed distance to the group's, for each of `points`; same unit as the input."""
    median = points.mean(dim=0)
    for _ in range(ITERATIONS):
        weights = 1 / (points - median).norm(dim=-1, keepdim=True).clamp_min(MIN_DISTANCE_M)
        median = (weights * points).sum(dim=0) / weights.sum(dim=0)
    return median
