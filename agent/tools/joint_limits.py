"""Joint limits: degrees beyond the anatomical range, summed over the joints.

Ranges, their sources and the decomposition into anatomical angles are in `hmr.body.joint_limits`. The value is the sum
and not the maximum: a pose with three joints slightly beyond their range is worse than one with a single such joint.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from agent.tools.parts import JOINT_WORDS, PART_NAMES, capitalise, worst_parts
from agent.types import Case, Evidence, Need
from hmr.body.joint_limits import limit_excess_rad

__all__ = ["JointLimits"]

NOTHING_DEG = 0.05  # a smaller sum is printed as 0
FAULT_DEG = (
    5.0  # of a part: the agreement of goniometer measurements (Norkin & White, "Measurement of Joint Motion")
)


class JointLimits:
    """Degrees by which joints exceed their range, summed over the body."""

    name = "joint_limits"
    metric = "joint_limit_excess_deg"
    needs: frozenset[Need] = frozenset()

    def measure(self, case: Case) -> Evidence:
        excess_deg = torch.rad2deg(limit_excess_rad(case.hypotheses.params.body_pose))
        return Evidence(
            tool=self.name,
            metric=self.metric,
            unit="deg",
            values=tuple(excess_deg.sum(dim=-1).tolist()),
            parts=worst_parts(excess_deg, FAULT_DEG, PART_NAMES[1:]),
            sentences=tuple(_sentence(row) for row in excess_deg),
        )


def _sentence(excess_deg: Float[Tensor, "23"]) -> str:
    """Agrees with the value: any excess is stated, also one that is no fault of a part."""
    joint, total = int(excess_deg.argmax()), float(excess_deg.sum())
    if total < NOTHING_DEG:
        return "Every joint stays within its anatomical range."
    worst = float(excess_deg[joint])
    others = f", all joints together {total:.1f}" if total - worst >= NOTHING_DEG else ""
    return capitalise(
        f"{JOINT_WORDS[joint + 1]} turns {worst:.1f} degrees beyond what a joint allows{others}."
    )
