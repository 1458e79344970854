"""Two-segment limbs: moves them out of the body and converts directions to anatomical angles.

A limb is two unit directions (upper and lower segment) in the convention of `hmr.synthetic.activities`: both sides in
that of the left, arms in the chest's frame, legs in the pelvis' frame. Angles are those of `hmr.body.joint_limits`, not
yet clamped. The collar contributes to raising the arm after Inman, Saunders & Abbott 1944 (scapulohumeral rhythm: at
most one degree in three). Knees are hinges that bend backward; elbows are hinges whose plane is set by the shoulder's
twist.

The trunk is an elliptic cylinder about the chest's y axis. Left out: collisions of arms with thighs and head and of
legs with the trunk, the bend of the spine, and the effect of clamping to the joint limits. Self-penetration is
therefore reduced, not excluded.
"""

from __future__ import annotations

import math

import roma
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from hmr.body.joint_limits import limits_rad
from hmr.types import JOINT_NAMES

__all__ = ["arm_angles", "clear_trunk", "leg_angles", "part_legs"]

# Metres, of the default body.
_SHOULDER_M, _UPPER_ARM_M, _FOREARM_M = 0.176, 0.26, 0.23
_HIP_M, _THIGH_M, _SHIN_M = 0.11, 0.38, 0.44
_TRUNK_WIDTH_M, _TRUNK_DEPTH_M = 0.19, 0.15  # half axes, including half the thickness of an arm
_LEG_GAP_M = 0.12  # between the centres of the knees, and of the ankles


def clear_trunk(arms: Float[Tensor, "batch sides segments 3"]) -> Float[Tensor, "batch sides segments 3"]:
    """Arm directions changed so that elbow, forearm and hand are outside the trunk."""
    upper, fore = arms.unbind(-2)
    shoulder = torch.tensor([_SHOULDER_M, 0.0, 0.0])
    upper = normalize(_outside(shoulder + _UPPER_ARM_M * upper) - shoulder, dim=-1)
    elbow = shoulder + _UPPER_ARM_M * upper
    for reach in (1.4, 1.0, 0.6):  # centre of the hand, wrist, centre of the forearm
        fore = normalize(_outside(elbow + reach * _FOREARM_M * fore) - elbow, dim=-1)
    return torch.stack([upper, fore], dim=-2)


def part_legs(legs: Float[Tensor, "batch sides segments 3"]) -> Float[Tensor, "batch sides segments 3"]:
    """Leg directions with a gap between knees and ankles; legs that cross with a gap stay crossed."""
    thigh, shin = legs.unbind(-2)
    hip = torch.tensor([_HIP_M, 0.0, 0.0])
    thigh = normalize(_apart(hip + _THIGH_M * thigh) - hip, dim=-1)
    knee = hip + _THIGH_M * thigh
    shin = normalize(_apart(knee + _SHIN_M * shin) - knee, dim=-1)
    return torch.stack([thigh, shin], dim=-2)


def _outside(points_m: Float[Tensor, "batch sides 3"]) -> Float[Tensor, "batch sides 3"]:
    """Points inside the trunk and below the shoulders, moved forward or backward to its surface."""
    x, y, z = points_m.unbind(-1)
    depth = _TRUNK_DEPTH_M * (1 - (x / _TRUNK_WIDTH_M) ** 2).clamp_min(0).sqrt()
    inside = (z.abs() < depth) & (y < 0)
    return torch.stack([x, y, torch.where(inside, torch.where(z < -0.05, -depth, depth), z)], dim=-1)


def _apart(points_m: Float[Tensor, "batch 2 3"]) -> Float[Tensor, "batch 2 3"]:
    """The points of both sides (x outward), moved outward equally until the gap is large enough."""
    left, right = points_m.unbind(1)
    needed = (_LEG_GAP_M**2 - (left - right)[:, 1:].square().sum(-1)).clamp_min(0).sqrt()
    gap = left[:, 0] + right[:, 0]
    outward = torch.where(gap.abs() < needed, (needed - gap) / 2, torch.zeros_like(gap))
    return points_m + outward[:, None, None] * torch.tensor([1.0, 0.0, 0.0])


def leg_angles(
    legs: Float[Tensor, "batch sides segments 3"], hip_rotation: Float[Tensor, "batch sides"]
) -> tuple[Float[Tensor, "batch sides 3"], Float[Tensor, "batch sides"]]:
    """Hip angles and knee flexion (radians); `hip_rotation` is added to the rotation given by the bent knee."""
    thigh, shin = legs.unbind(-2)
    hip = _swing_to(torch.tensor([0.0, -1.0, 0.0]), thigh)
    x, y, z = _in_frame_of(hip, shin).unbind(-1)
    back = (-z).clamp_min(0)
    knee = torch.atan2(torch.hypot(x, back), -y)
    hip[..., 1] = torch.atan2(-x, back + 1e-3) * _bent(knee) + hip_rotation
    return hip, knee


def arm_angles(
    arms: Float[Tensor, "batch sides segments 3"],
    collar_share: Float[Tensor, "batch sides"],
    shoulder_rotation: Float[Tensor, "batch sides"],
    hinge: Float[Tensor, "batch sides"],
) -> tuple[Float[Tensor, "batch sides 3"], Float[Tensor, "batch sides 3"], Float[Tensor, "batch sides 3"]]:
    """Angles (radians) of collar, shoulder and elbow.

    `collar_share` (0 to 1) scales the collar's part; `shoulder_rotation` is added to the twist; `hinge` is the rotation
    of the elbow's axis about the bone, upward. If the shoulder's range is too small for the elbow's plane, the elbow
    takes the remaining rotation.
    """
    upper, fore = arms.unbind(-2)
    # from 30 degrees above hanging
    rise = (torch.asin(upper[..., 1].clamp(-1, 1)) + math.pi / 3).clamp_min(0)
    forward = 0.25 * upper[..., 2]
    collar = collar_share[..., None] * torch.stack([torch.zeros_like(rise), -forward, rise / 3], dim=-1)
    upper, fore = _in_frame_of(collar, upper), _in_frame_of(collar, fore)
    shoulder = _swing_to(torch.tensor([1.0, 0.0, 0.0]), upper)
    x, y, z = _in_frame_of(shoulder, fore).unbind(-1)
    flexion, plane = torch.atan2(torch.hypot(y, z), x), torch.atan2(-y, z)
    twist = (plane + hinge) * _bent(flexion) + shoulder_rotation
    lowest, highest = (bound[JOINT_NAMES.index("left_shoulder") - 1, 0] for bound in limits_rad())
    shoulder[..., 0] = twist.clamp(lowest, highest)
    rest = plane - shoulder[..., 0]
    elbow = torch.stack([torch.zeros_like(rest), -flexion * rest.cos(), -flexion * rest.sin()], dim=-1)
    return collar, shoulder, elbow


def _swing_to(bone: Float[Tensor, "3"], direction: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """The shortest rotation vector that turns `bone` into `direction`."""
    axis = torch.linalg.cross(bone.expand_as(direction), direction)
    sine = axis.norm(dim=-1, keepdim=True)
    return axis / sine.clamp_min(1e-6) * torch.atan2(sine, (direction * bone).sum(-1, keepdim=True))


def _in_frame_of(
    rotvec: Float[Tensor, "*batch 3"], vector: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3"]:
    return roma.quat_action(roma.rotvec_to_unitquat(-rotvec), vector)


def _bent(flexion: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """0 for a straight limb, whose bending plane is undefined, up to 1 from 25 degrees."""
    return (flexion / math.radians(25)).clamp(0, 1)
