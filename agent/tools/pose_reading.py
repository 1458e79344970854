"""How far is a hypothesis from the body that the detector itself reads in the image?

A detector may read joints in space besides keypoints: the embedded one answers with the policy's regression head, and
any off-the-shelf regressor (HMR2, CLIFF) can stand in its place. The value is the mean distance of the pelvis-aligned
joints, which are in the camera's axes for both. A reading from the same encoder shares the policy's mistakes; what it
adds to the group's own consensus is that nobody drew it at random.
"""

from __future__ import annotations

from agent.tools.distances import distance_evidence
from agent.types import Case, Evidence, Need

__all__ = ["PoseReading"]


class PoseReading:
    """Mean distance of pelvis-aligned joints from the detector's reading, in millimetres."""

    name = "pose_reading"
    needs: frozenset[Need] = frozenset({"joints"})

    def measure(self, case: Case) -> Evidence:
        assert case.detection is not None, "the graph skips tools whose needs are not met"
        assert case.detection.joints_root_m is not None, "and so it does here"
        reading = case.detection.joints_root_m
        return distance_evidence(
            case, self.name, reading, "the detector's own reading", "where the detector reads it"
        )
