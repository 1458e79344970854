"""Distance of a hypothesis from the 3D joints that the detector predicts.

Some detectors predict 3D joints besides keypoints: the embedded one uses the policy's regression head, and any
regressor (HMR2, CLIFF) can be wrapped as a detector. The value is the mean distance of the pelvis-aligned joints, in
the camera's axes for both. A prediction from the same encoder shares the errors of the policy; unlike the group's
consensus, it is not a random sample.
"""

from __future__ import annotations

from agent.tools.distances import distance_evidence
from agent.types import Case, Evidence, Need

__all__ = ["PoseReading"]


class PoseReading:
    """Mean distance of pelvis-aligned joints from the detector's 3D joints, in millimetres."""

    name = "pose_reading"
    needs: frozenset[Need] = frozenset({"joints"})

    def measure(self, case: Case) -> Evidence:
        assert case.detection is not None, "the graph skips tools whose needs are not met"
        assert case.detection.joints_root_m is not None
        words = ("the detector's own reading", "where the detector reads it")
        return distance_evidence(case, self.name, case.detection.joints_root_m, *words)
