"""Re-observation: evidence that is measured after scoring, to resolve uncertain scores.

| metric                       | source                                                  | cost                    |
|------------------------------|---------------------------------------------------------|-------------------------|
| score_weighted_consensus_mm  | the score-weighted mean body of the group               | none                    |
| metrics of REOBSERVED_TOOLS, | keypoints, and 3D joints if the detector predicts them, | 2 VIEWS - 1 runs of the |
| as far as the agent has them | averaged over VIEWS crops and their mirror images       | detector                |

A metric that is measured again keeps its name, and its new values replace the first ones (`latest`). The first
detection depends on one crop; of everything that was tried, a second one changes the ranking most
(docs/results/superseded.md).

`group_consensus` weights all hypotheses equally and so has the policy's bias. The consensus here weights them by their
scores, w_j ~ exp(z_j) with z the standardised score; self-reflection always uses it. Choosing the hypothesis of least
expected distance under w is the minimum Bayes risk decision. Left out: libigl's exact self-intersection, which does not
improve the ranking (docs/results/critics.md); `agent.tools.self_contact` tests capsules instead.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from agent.tools.joint_distances import PoseReading, joints_root_m
from agent.tools.reprojection import KeypointLayout, Reprojection
from agent.types import Case, CritiqueTool, Evidence
from hmr.detection.test_time_augmentation import detect_with_augmentation
from hmr.types import Detector

__all__ = ["LATER_EVIDENCE", "latest", "reobserved_evidence", "score_weighted_consensus"]

LATER_EVIDENCE = (
    "later_evidence"  # the `tool` of evidence measured after scoring, in prompts and stored evidence
)
REOBSERVED_TOOLS: tuple[CritiqueTool, ...] = (Reprojection(), KeypointLayout(), PoseReading())
VIEWS = 4  # crops of the photograph, each also mirrored


def score_weighted_consensus(case: Case, scores: Float[Tensor, "group"]) -> Evidence:
    """Distance in millimetres of every hypothesis from the score-weighted mean of the group."""
    joints_mm = 1000 * joints_root_m(case)
    z = (scores - scores.mean()) / scores.std().clamp_min(1e-6)
    weights = torch.softmax(z, dim=0).to(joints_mm)
    center = (weights[:, None, None] * joints_mm).sum(dim=0)
    distance = (joints_mm - center).norm(dim=-1).mean(dim=-1).tolist()
    return Evidence(
        tool=LATER_EVIDENCE,
        metric="score_weighted_consensus_mm",
        unit="mm",
        values=tuple(distance),
        parts=((),) * len(case),
        sentences=tuple(
            f"It lies {value:.0f} mm from the body the best hypotheses agree on." for value in distance
        ),
    )


def reobserved_evidence(case: Case, detector: Detector, seed: int, tools: Collection[str]) -> list[Evidence]:
    """Evidence of those of the named tools that read detections, from a detection with test-time augmentation
    (`hmr.detection.test_time_augmentation`). Tools that the agent does not have are not run here either.

    `detector` must be the one whose detection the case holds. Raises what the detector raises.
    """
    available = [tool for tool in REOBSERVED_TOOLS if tool.name in tools]
    if not available:
        return []
    detection = detect_with_augmentation(detector, case.sample, VIEWS, seed, case.detection)
    augmented = replace(case, detection=detection)
    has_joints = detection.joints_root_m is not None
    usable = [tool for tool in available if has_joints or "joints" not in tool.needs]
    return [replace(tool.measure(augmented), tool=LATER_EVIDENCE) for tool in usable]


def latest(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Evidence on the metrics that were measured before scoring, each with its last values."""
    last = {item.metric: item for item in evidence}
    return [last[item.metric] for item in evidence if item.tool != LATER_EVIDENCE]
