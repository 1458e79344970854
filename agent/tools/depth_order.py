"""Which joints lie before which others, against the detector's own reading in space?

A photograph hides depth, and a flipped limb is at its clearest in the order of depth: the wrist that the detector reads
before the chest lies behind it. Every pair of joints that the reading holds apart counts, weighted by how sure the
detector is of seeing both; the value is the share of that weight in the other order. Two joints nearer to each other
than `APART_M`, in the hypothesis or in the reading, are in no order. How far a joint is off is not asked here: that is
`agent.tools.pose_reading`, with which this one shares its source and so its mistakes: beside it, it adds nothing to the
ranking (docs/critics.md), and no seed rule asks for it. It tells a judge with words what is where.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agent.tools.distances import joints_root_m
from agent.tools.parts import JOINT_WORDS, LIMB_ENDING_AT, worst_parts
from agent.types import Case, Evidence, Need
from hmr.types import NUM_JOINTS

__all__ = ["DepthOrder"]

APART_M = 0.08
FAULT_PERCENT = 25.0  # of the pairs of one joint


class DepthOrder:
    """Pairs of joints whose order in depth is not the detector's, in percent of those that it holds apart."""

    name = "depth_order"
    needs: frozenset[Need] = frozenset({"joints"})

    def measure(self, case: Case) -> Evidence:
        assert case.detection is not None, "the graph skips tools whose needs are not met"
        assert case.detection.joints_root_m is not None, "and so it does here"
        depth_m = joints_root_m(case)[..., 2]
        read = _gaps_m(case.detection.joints_root_m.to(depth_m)[:, 2])
        sure = case.detection.confidence.to(depth_m)
        weight = sure[:, None] * sure[None] * (read.abs() > APART_M)
        if not weight.any():
            sentence = "The detector reads all that it sees at one depth."
            return Evidence.silent(self.name, "depth_order_percent", "%", len(case), sentence)
        gaps_m = _gaps_m(depth_m)
        wrong = (gaps_m.abs() > APART_M) & (gaps_m * read < 0)
        by_joint = 100 * (wrong * weight).sum(dim=-1) / weight.sum(dim=-1).clamp_min(1e-9)
        return Evidence(
            tool=self.name,
            metric="depth_order_percent",
            unit="%",
            values=tuple((100 * (wrong * weight).sum(dim=(1, 2)) / weight.sum()).tolist()),
            parts=worst_parts(by_joint, FAULT_PERCENT, LIMB_ENDING_AT),
            sentences=tuple(_sentence(*rows, read, weight) for rows in zip(wrong, gaps_m, strict=True)),
        )


def _gaps_m(depth_m: Float[Tensor, "*batch 24"]) -> Float[Tensor, "*batch 24 24"]:
    """How far each joint lies behind each other."""
    return depth_m[..., :, None] - depth_m[..., None, :]


def _sentence(
    wrong: Bool[Tensor, "24 24"],
    gaps_m: Float[Tensor, "24 24"],
    read: Float[Tensor, "24 24"],
    weight: Float[Tensor, "24 24"],
) -> str:
    """About the pair that is farthest from its order."""
    off = torch.triu(wrong * weight * (gaps_m - read).abs())
    if not off.any():
        return "Joints lie in the order of depth that the detector reads."
    one, other = divmod(int(off.argmax()), NUM_JOINTS)
    side = "behind" if gaps_m[one, other] > 0 else "before"
    return (
        f"The {JOINT_WORDS[one]} lies {side} the {JOINT_WORDS[other]}; the detector reads it the other way."
    )
