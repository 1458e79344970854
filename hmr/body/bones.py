"""Bodies whose bones are turned into given directions, by inverse kinematics in closed form, from the root outwards.

A joint with one bone turns by the smallest rotation that aligns the bone, so its twist about the bone stays; one with
several turns by the rotation that aligns them best (Kabsch, Acta Cryst. 1976). Shape, bone lengths and the place of the
pelvis stay.

A bone that is reflected on the line of sight keeps its length and its picture and points to the other side in depth:
one image cannot tell the two apart (Sminchisescu and Triggs, Kinematic Jump Processes, CVPR 2003).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from hmr.body.model import Body
from hmr.types import NUM_JOINTS, PARENTS, BodyParams

__all__ = ["CHILDREN", "bones_of", "mirror_in_depth", "turn_bones"]

CHILDREN = tuple(
    tuple(child for child, parent in enumerate(PARENTS) if parent == joint) for joint in range(NUM_JOINTS)
)
JOINTS_WITH_BONES = tuple(joint for joint in range(NUM_JOINTS) if CHILDREN[joint])


def bones_of(joints_m: Float[Tensor, "*batch 24 3"]) -> Float[Tensor, "*batch 24 3"]:
    """From each joint's parent to the joint; zero for the pelvis."""
    return joints_m - joints_m[..., [0, *PARENTS[1:]], :]


def mirror_in_depth(
    bones_m: Float[Tensor, "*batch 24 3"], joints_cam_m: Float[Tensor, "*batch 24 3"]
) -> Float[Tensor, "*batch 24 3"]:
    """Each bone reflected on the line of sight through its end."""
    rays = torch.nn.functional.normalize(joints_cam_m, dim=-1)
    return bones_m - 2 * (bones_m * rays).sum(dim=-1, keepdim=True) * rays


@torch.no_grad()
def turn_bones(
    params: BodyParams,
    body: Body,
    bones_m: Float[Tensor, "*batch 24 3"],
    joints: Collection[int] = JOINTS_WITH_BONES,
) -> BodyParams:
    """The bodies with the bones of `joints` (those that end in their children) along `bones_m`, of any length; the
    other joints keep their rotations relative to their parents."""
    local = roma.rotvec_to_rotmat(torch.cat([params.global_orient[..., None, :], params.body_pose], dim=-2))
    rest_m = bones_of(body.rest_joints(params.betas))
    turned: list[Tensor] = []
    world: list[Tensor] = []
    for joint, parent in enumerate(PARENTS):
        above = world[parent] if joint else torch.eye(3, device=local.device).expand_as(local[..., 0, :, :])
        rotation = above @ local[..., joint, :, :]
        if joint in joints:
            children = list(CHILDREN[joint])
            present = (rotation[..., None, :, :] @ rest_m[..., children, :, None])[..., 0]
            rotation = _aligning(present, bones_m[..., children, :]) @ rotation
        world.append(rotation)
        turned.append(roma.rotmat_to_rotvec(above.mT @ rotation))
    rotvecs = torch.stack(turned, dim=-2)
    return BodyParams(rotvecs[..., 0, :], rotvecs[..., 1:, :], params.betas, params.transl)


def _aligning(
    present: Float[Tensor, "*batch bones 3"], wanted: Float[Tensor, "*batch bones 3"]
) -> Float[Tensor, "*batch 3 3"]:
    """The rotation that aligns the directions of the bones."""
    present, wanted = (torch.nn.functional.normalize(item, dim=-1) for item in (present, wanted))
    if present.shape[-2] > 1:
        return cast(Tensor, roma.special_procrustes(wanted.mT @ present))
    first, second = present[..., 0, :], wanted[..., 0, :]
    halfway = 1 + (first * second).sum(dim=-1, keepdim=True)
    # opposite directions have no smallest rotation: half a turn about any axis across them
    axis = torch.nn.functional.one_hot(first.abs().argmin(dim=-1), 3).to(first)
    across = torch.nn.functional.normalize(torch.linalg.cross(first, axis), dim=-1)
    opposite = halfway < 1e-6
    vector = torch.where(opposite, across, torch.linalg.cross(first, second))
    quaternion = torch.cat([vector, torch.where(opposite, 0.0, halfway)], dim=-1)
    return roma.unitquat_to_rotmat(torch.nn.functional.normalize(quaternion, dim=-1))
