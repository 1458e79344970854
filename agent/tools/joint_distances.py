"""Evidence from 3D distances of joints to a reference body: the group's median, or the detector's 3D joints."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from agent.tools.parts import JOINT_WORDS, LIMB_ENDING_AT, worst_parts
from agent.types import Case, Evidence, Need

__all__ = ["GroupConsensus", "PoseReading", "geometric_median", "joints_root_m"]

FAULT_MM = 150.0


def joints_root_m(case: Case) -> Float[Tensor, "group 24 3"]:
    """The group's joints relative to each body's pelvis, in the camera's axes."""
    return case.posed.joints_cam_m - case.posed.joints_cam_m[:, :1]


def _distance_evidence(
    case: Case, tool: str, metric: str, reference_root_m: Float[Tensor, "24 3"], reference: str, location: str
) -> Evidence:
    """Mean distance of every hypothesis' joints from a reference body, in millimetres.

    Words for the sentences: `reference` names the body ("the group's median"), `location` its position of a joint
    ("where the detector reads it").
    """
    distance_mm = 1000 * (joints_root_m(case) - reference_root_m.to(case.posed.joints_cam_m)).norm(dim=-1)
    return Evidence(
        tool=tool,
        metric=metric,
        unit="mm",
        values=tuple(distance_mm.mean(dim=-1).tolist()),
        parts=worst_parts(distance_mm, FAULT_MM, LIMB_ENDING_AT),
        sentences=tuple(_sentence(row, reference, location) for row in distance_mm),
    )


def _sentence(distance_mm: Float[Tensor, "24"], reference: str, location: str) -> str:
    joint = int(distance_mm.argmax())
    worst = float(distance_mm[joint])
    if worst <= FAULT_MM:
        mean = float(distance_mm.mean())
        return f"Its joints are on average {mean:.0f} mm from {reference}, at most {worst:.0f} mm."
    return f"The {JOINT_WORDS[joint]} is {worst:.0f} mm from {location}."


class PoseReading:
    """Mean distance of pelvis-aligned joints from the detector's 3D joints, in millimetres, in the camera's axes.

    Some detectors predict 3D joints besides keypoints, and any regressor (HMR2, CLIFF) can be wrapped as a detector;
    to others the default agent adds the shipped policy's estimate (`hmr.policy.joints_3d`). Its errors are shared by
    that policy's own hypotheses, and less by those of other policies.
    """

    name = "pose_reading"
    metric = "pose_reading_mm"
    needs: frozenset[Need] = frozenset({"joints"})

    def measure(self, case: Case) -> Evidence:
        assert case.detection is not None, "the graph skips tools whose needs are not met"
        assert case.detection.joints_root_m is not None
        words = ("the 3D reading of the image", "where the 3D reading of the image has it")
        return _distance_evidence(case, self.name, self.metric, case.detection.joints_root_m, *words)


ITERATIONS = 20
MIN_DISTANCE_M = 1e-3  # bounds the weight of points close to the median


class GroupConsensus:
    """Mean distance of pelvis-aligned joints from the group's geometric median, in millimetres.

    The geometric median (the point of least summed distance, Weiszfeld 1937) is robust as long as fewer than half of
    the hypotheses are outliers. The image is not used: this is the baseline for every other tool, and it is wrong
    wherever the whole group is.
    """

    name = "group_consensus"
    metric = "group_consensus_mm"
    needs: frozenset[Need] = frozenset()

    def measure(self, case: Case) -> Evidence:
        median = geometric_median(joints_root_m(case))
        words = ("the group's median", "where most of the group puts it")
        return _distance_evidence(case, self.name, self.metric, median, *words)


def geometric_median(points: Float[Tensor, "group *points dim"]) -> Float[Tensor, "*points dim"]:
    """The point of least summed distance to the group's, for each of `points`; same unit as the input."""
    median = points.mean(dim=0)
    for _ in range(ITERATIONS):
        weights = 1 / (points - median).norm(dim=-1, keepdim=True).clamp_min(MIN_DISTANCE_M)
        median = (weights * points).sum(dim=0) / weights.sum(dim=0)
    return median
