"""What a doubt buys: evidence that nobody had when the group was scored.

| metric                       | what is looked at                                             | costs           |
|------------------------------|---------------------------------------------------------------|-----------------|
| score_weighted_consensus_mm  | the body that the best-scored agree on                        | nothing         |
| steady_reprojection_percent  | keypoints read from other crops of the photo, mirrors too       | 2 x VIEWS looks |
| steady_pose_reading_mm       | joints in space read there, where the detector reads any      | the same looks  |

The first consensus of a group weighs all hypotheses alike and so inherits the policy's bias; this one weighs them by
their scores, w_j ~ exp(z_j) with z the standardised score. It needs no doubt and is what reflection itself consults;
choosing the hypothesis of least expected distance under w is the minimum Bayes risk decision. The others are taken
once a score is in doubt, and only then. Left out: libigl's exact self-intersection, which ranks nothing here
(docs/feasibility.md); the capsules of `agent.tools.self_contact` stay the test.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from agent.tools.distances import joints_root_m
from agent.tools.pose_reading import PoseReading
from agent.tools.reprojection import Reprojection
from agent.types import Case, Evidence
from hmr.steady import steady_look
from hmr.types import Detector

__all__ = ["look_again", "score_weighted_consensus"]

VIEWS = 4  # crops of the photograph, each also mirrored


def score_weighted_consensus(case: Case, scores: Float[Tensor, "group"]) -> Evidence:
    """Distance in millimetres of every hypothesis from the score-weighted mean of the group."""
    joints_mm = 1000 * joints_root_m(case)
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


def look_again(case: Case, detector: Detector, seed: int) -> list[Evidence]:
    """The group against a steadier reading of the photograph (hmr.steady). Raises what the detector raises."""
    steady = replace(case, detection=steady_look(detector, case.sample, VIEWS, seed))
    found = [_renamed(Reprojection().measure(steady), "steady_reprojection_percent")]
    if steady.detection is not None and steady.detection.joints_root_m is not None:
        found.append(_renamed(PoseReading().measure(steady), "steady_pose_reading_mm"))
    return found


def _renamed(evidence: Evidence, metric: str) -> Evidence:
    return replace(evidence, tool="second_look", metric=metric)
