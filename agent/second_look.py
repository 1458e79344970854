"""What can only be measured once there are scores: the distance from the body that the best agree on.

The first consensus weighs all hypotheses alike and so inherits the policy's bias; this one weighs them by
their scores, w_j ~ exp(z_j) with z the standardised score, and measures the mean joint distance to the
weighted mean body, pelvis-aligned. Choosing the hypothesis of least expected distance under w is the minimum
Bayes risk decision.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from agent.types import Case, Evidence

__all__ = ["score_weighted_consensus"]


def score_weighted_consensus(case: Case, scores: Float[Tensor, "group"]) -> Evidence:
    """Distance in millimetres of every hypothesis from the score-weighted mean of the group."""
    joints_mm = 1000 * (case.posed.joints_cam_m - case.posed.joints_cam_m[:, :1])
    z = (scores - scores.mean()) / scores.std().clamp_min(1e-6)
    weights = torch.softmax(z, dim=0).to(joints_mm)
    center = (weights[:, None, None] * joints_mm).sum(dim=0)
    distance = (joints_mm - center).norm(dim=-1).mean(dim=-1).tolist()
    return Evidence(
        tool="second_look",
        metric="score_weighted_consensus_mm",
        unit="mm",
        values=tuple(distance),
        parts=((),) * len(case),
        sentences=tuple(
            f"It lies {value:.0f} mm from the body the best hypotheses agree on." for value in distance
        ),
    )
