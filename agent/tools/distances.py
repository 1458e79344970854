"""Evidence from 3D distances of joints to a reference body: the group's median, or the detector's 3D joints."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from agent.tools.parts import JOINT_WORDS, LIMB_ENDING_AT, worst_parts
from agent.types import Case, Evidence

__all__ = ["distance_evidence", "joints_root_m"]

FAULT_MM = 150.0


def joints_root_m(case: Case) -> Float[Tensor, "group 24 3"]:
    """The group's joints relative to each body's pelvis, in the camera's axes."""
    return case.posed.joints_cam_m - case.posed.joints_cam_m[:, :1]


def distance_evidence(
    case: Case, tool: str, reference_root_m: Float[Tensor, "24 3"], reference: str, location: str
) -> Evidence:
    """Mean distance of every hypothesis' joints from a reference body, in millimetres.

    Words for the sentences: `reference` names the body ("the group's median"), `location` its position of a joint
    ("where the detector reads it").
    """
    distance_mm = 1000 * (joints_root_m(case) - reference_root_m.to(case.posed.joints_cam_m)).norm(dim=-1)
    return Evidence(
        tool=tool,
        metric=f"{tool}_mm",
        unit="mm",
        values=tuple(distance_mm.mean(dim=-1).tolist()),
        parts=worst_parts(distance_mm, FAULT_MM, LIMB_ENDING_AT),
        sentences=tuple(_sentence(row, reference, location) for row in distance_mm),
    )


def _sentence(distance_mm: Float[Tensor, "24"], reference: str, location: str) -> str:
    joint = int(distance_mm.argmax())
    worst = float(distance_mm[joint])
    if worst <= FAULT_MM:
        return f"No joint is farther than {worst:.0f} mm from {reference}."
    return f"The {JOINT_WORDS[joint]} is {worst:.0f} mm from {location}."
