"""How far is a hypothesis from the body that the detector itself reads in the image?

A detector may read joints in space besides keypoints: the embedded one answers with the policy's regression head, and
any off-the-shelf regressor (HMR2, CLIFF) can stand in its place. The value is the mean distance of the pelvis-aligned
joints, which are in the camera's axes for both. A reading from the same encoder shares the policy's mistakes; what it
adds to the group's own consensus is that nobody drew it at random.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from agent.tools.parts import JOINT_WORDS, LIMB_ENDING_AT, worst_parts
from agent.types import Case, Evidence, Need

__all__ = ["PoseReading"]

FAULT_MM = 150.0


class PoseReading:
    """Mean distance of pelvis-aligned joints from the detector's reading, in millimetres."""

    name = "pose_reading"
    needs: frozenset[Need] = frozenset({"joints"})

    def measure(self, case: Case) -> Evidence:
        assert case.detection is not None, "the graph skips tools whose needs are not met"
        assert case.detection.joints_root_m is not None, "and so it does here"
        joints_root_m = case.posed.joints_cam_m - case.posed.joints_cam_m[:, :1]
        distance_mm = 1000 * (joints_root_m - case.detection.joints_root_m.to(joints_root_m)).norm(dim=-1)
        return Evidence(
            tool=self.name,
            metric="pose_reading_mm",
            unit="mm",
            values=tuple(distance_mm.mean(dim=-1).tolist()),
            parts=worst_parts(distance_mm, FAULT_MM, LIMB_ENDING_AT),
            sentences=tuple(_sentence(row) for row in distance_mm),
        )


def _sentence(distance_mm: Float[Tensor, "24"]) -> str:
    joint = int(distance_mm.argmax())
    worst = float(distance_mm[joint])
    if worst <= FAULT_MM:
        return f"No joint is farther than {worst:.0f} mm from the detector's own reading."
    return f"The {JOINT_WORDS[joint]} is {worst:.0f} mm from where the detector reads it."
