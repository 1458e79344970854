"""Depth order of joints, compared with the 3D joints of the detector.

A photograph hides depth, and a flipped limb is easiest to recognise in the depth order: a wrist that the detector
places in front of the chest is behind it. Each pair of joints that the detection separates counts, weighted by the
confidence of both; the value is the share of that weight in the opposite order. Two joints that are closer than
`APART_M`, in the hypothesis or in the detection, have no order. The size of the error is measured by
`agent.tools.joint_distances`, which uses the same detection and so has the same errors. This tool does not improve the
ranking in addition to it (docs/results/superseded.md), and no seed rule uses it; its sentences describe the depth order
to a language model.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agent.tools.joint_distances import joints_root_m
from agent.tools.parts import JOINT_WORDS, LIMB_ENDING_AT, worst_parts
from agent.types import Case, Evidence, Need
from hmr.types import NUM_JOINTS

__all__ = ["DepthOrder"]

APART_M = 0.08
FAULT_PERCENT = 25.0  # of the pairs of one joint


class DepthOrder:
    """Share of joint pairs whose depth order differs from the detection, in percent of the pairs it separates."""

    name = "depth_order"
    metric = "depth_order_percent"
    needs: frozenset[Need] = frozenset({"joints"})

    def measure(self, case: Case) -> Evidence:
        assert case.detection is not None, "the graph skips tools whose needs are not met"
        assert case.detection.joints_root_m is not None
        depth_m = joints_root_m(case)[..., 2]
        detected = _gaps_m(case.detection.joints_root_m.to(depth_m)[:, 2])
        sure = case.detection.keypoint_visibility.to(depth_m)
        weight = sure[:, None] * sure[None] * (detected.abs() > APART_M)
        if not weight.any():
            sentence = "The detector reads all that it sees at one depth."
            return Evidence.unmeasured(self.name, self.metric, "%", len(case), sentence)
        gaps_m = _gaps_m(depth_m)
        wrong = (gaps_m.abs() > APART_M) & (gaps_m * detected < 0)
        by_joint = 100 * (wrong * weight).sum(dim=-1) / weight.sum(dim=-1).clamp_min(1e-9)
        return Evidence(
            tool=self.name,
            metric=self.metric,
            unit="%",
            values=tuple((100 * (wrong * weight).sum(dim=(1, 2)) / weight.sum()).tolist()),
            parts=worst_parts(by_joint, FAULT_PERCENT, LIMB_ENDING_AT),
            sentences=tuple(_sentence(*rows, detected, weight) for rows in zip(wrong, gaps_m, strict=True)),
        )


def _gaps_m(depth_m: Float[Tensor, "*batch 24"]) -> Float[Tensor, "*batch 24 24"]:
    """The difference in depth of each pair of joints; positive if the first is farther away."""
    return depth_m[..., :, None] - depth_m[..., None, :]


def _sentence(
    wrong: Bool[Tensor, "24 24"],
    gaps_m: Float[Tensor, "24 24"],
    detected: Float[Tensor, "24 24"],
    weight: Float[Tensor, "24 24"],
) -> str:
    """Names the pair with the largest error in its order."""
    off = torch.triu(wrong * weight * (gaps_m - detected).abs())
    if not off.any():
        return "Joints lie in the order of depth that the detector reads."
    one, other = divmod(int(off.argmax()), NUM_JOINTS)
    side = "behind" if gaps_m[one, other] > 0 else "before"
    return (
        f"The {JOINT_WORDS[one]} lies {side} the {JOINT_WORDS[other]}; the detector reads it the other way."
    )
