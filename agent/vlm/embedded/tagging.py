"""Image tags of the embedded critic: thresholds on the facts of `agent/nodes/image_facts.py`."""

from __future__ import annotations

from typing import Any

__all__ = ["image_tags"]

OCCLUDED = 0.4  # a limb is occluded if the mean confidence of its joints is lower
OUTSIDE = 0.02  # share of the box outside the image
RAISED_MM = 0.0  # least height of a wrist above the shoulder
LOW_RESOLUTION_PX = 96


def image_tags(facts: dict[str, Any]) -> list[str]:
    """Tags of the form `kind:value`, such as occluded:legs, truncated:bottom, pose:sitting, facing:away."""
    tags = [f"occluded:{part}" for part, confidence in facts["confidence"].items() if confidence < OCCLUDED]
    tags += [f"truncated:{side}" for side, share in facts["outside"].items() if share > OUTSIDE]
    tags += [f"pose:{_pose(facts)}", f"facing:{_facing(facts['facing_z'])}"]
    if facts["wrist_above_shoulder_mm"] > RAISED_MM:
        tags.append("arms:raised")
    if facts["box_px"] < LOW_RESOLUTION_PX:
        tags.append("resolution:low")
    return tags


def _pose(facts: dict[str, Any]) -> str:
    if facts["torso_tilt_deg"] > 60:
        return "lying"
    if facts["hip_flexion_deg"] > 60:
        return "sitting"
    return "bent" if facts["torso_tilt_deg"] > 30 else "upright"


def _facing(facing_z: float) -> str:
    if abs(facing_z) < 0.5:
        return "side"
    return "away" if facing_z > 0 else "camera"
