"""What the embedded critic says about an image: thresholds on the facts of `agent/nodes/image_facts.py`."""

from __future__ import annotations

from typing import Any

__all__ = ["tags_of"]

UNSEEN = 0.4  # mean joint confidence below which a limb counts as occluded
OUTSIDE = 0.02  # share of the box beyond the border
RAISED_MM = 0.0  # wrist above the shoulder by more than this
LOW_RESOLUTION_PX = 96


def tags_of(facts: dict[str, Any]) -> list[str]:
    """Tags of the form `kind:value`, such as occluded:legs, truncated:bottom, pose:sitting, facing:away."""
    tags = [f"occluded:{part}" for part, seen in facts["confidence"].items() if seen < UNSEEN]
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


def _facing(toward_z: float) -> str:
    if abs(toward_z) < 0.5:
        return "side"
    return "away" if toward_z > 0 else "camera"
