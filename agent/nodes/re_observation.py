"""What a doubt buys: a steadier reading of the photograph.

| metric                       | what is looked at                                             | costs             |
|------------------------------|---------------------------------------------------------------|-------------------|
| score_weighted_consensus_mm  | the body that the best-scored agree on                        | nothing           |
| those of LOOKED_AGAIN that   | keypoints, and joints in space where the detector reads any,  | VIEWS - 1 looks   |
| the agent has                | read from other crops of the photograph, mirrors too          | and VIEWS mirrors |

A metric that is measured again keeps its name and takes the place of the first measurement (`latest`): the first
reading of a photograph hangs on one crop, and of all that was tried this moves the ranking most (docs/critics.md).

The first consensus of a group weighs all hypotheses alike and so inherits the policy's bias; the one here weighs them
by their scores, w_j ~ exp(z_j) with z the standardised score. It needs no doubt and is what reflection itself consults;
choosing the hypothesis of least expected distance under w is the minimum Bayes risk decision. Left out: libigl's exact
self-intersection, which ranks nothing here (docs/feasibility.md); the capsules of `agent.tools.self_contact` stay the
test.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from agent.tools.distances import joints_root_m
from agent.tools.keypoint_layout import KeypointLayout
from agent.tools.pose_reading import PoseReading
from agent.tools.reprojection import Reprojection
from agent.types import Case, CritiqueTool, Evidence
from hmr.detection.test_time_augmentation import detect_with_augmentation
from hmr.types import Detector

__all__ = ["SECOND_LOOK", "latest", "look_again", "score_weighted_consensus"]

SECOND_LOOK = "second_look"  # the tool of what is measured once there are scores
LOOKED_AGAIN: tuple[CritiqueTool, ...] = (Reprojection(), KeypointLayout(), PoseReading())
VIEWS = 4  # crops of the photograph, each also mirrored


def score_weighted_consensus(case: Case, scores: Float[Tensor, "group"]) -> Evidence:
    """Distance in millimetres of every hypothesis from the score-weighted mean of the group."""
    joints_mm = 1000 * joints_root_m(case)
    z = (scores - scores.mean()) / scores.std().clamp_min(1e-6)
    weights = torch.softmax(z, dim=0).to(joints_mm)
    center = (weights[:, None, None] * joints_mm).sum(dim=0)
    distance = (joints_mm - center).norm(dim=-1).mean(dim=-1).tolist()
    return Evidence(
        tool=SECOND_LOOK,
        metric="score_weighted_consensus_mm",
        unit="mm",
        values=tuple(distance),
        parts=((),) * len(case),
        sentences=tuple(
            f"It lies {value:.0f} mm from the body the best hypotheses agree on." for value in distance
        ),
    )


def look_again(case: Case, detector: Detector, seed: int, tools: Collection[str]) -> list[Evidence]:
    """The group against a steadier reading of the photograph (hmr.detection.test_time_augmentation), by the detector whose first look the case
    holds: what those of the named tools make of it that read a photograph, and no others, so that an agent without
    one is without it here too. Raises what the detector raises."""
    at_hand = [tool for tool in LOOKED_AGAIN if tool.name in tools]
    if not at_hand:
        return []
    detection = detect_with_augmentation(detector, case.sample, VIEWS, seed, case.detection)
    steady = replace(case, detection=detection)
    reads_space = detection.joints_root_m is not None
    able = [tool for tool in at_hand if reads_space or "joints" not in tool.needs]
    return [replace(tool.measure(steady), tool=SECOND_LOOK) for tool in able]


def latest(evidence: Sequence[Evidence]) -> list[Evidence]:
    """What was measured of the group before it had scores, each metric as it was measured last."""
    last = {item.metric: item for item in evidence}
    return [last[item.metric] for item in evidence if item.tool != SECOND_LOOK]
