"""The skeleton of a posed body as animation programs expect it: each bone's rotation in the frame of its parent.

A posed body is in the camera frame (y down, z forward). Animation programs expect y up and z towards the viewer, a
rotation by 180 degrees about x. It is applied to the root only; all other rotations are SMPL's.
"""

from __future__ import annotations

from dataclasses import dataclass

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from hmr.body.model import Body
from hmr.types import NUM_JOINTS, PARENTS, BodyParams

__all__ = ["UPRIGHT", "Skeleton", "skeleton_of"]

UPRIGHT = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # from the camera frame to y up
HANDS = slice(22, 24)


@dataclass(frozen=True)
class Skeleton:
    """Skeletons of any batch shape, in a world frame with y up."""

    rest_joints_m: Float[Tensor, "*batch 24 3"]  # of the unposed body, in the model's frame
    root_world_m: Float[Tensor, "*batch 3"]
    rotations: Float[Tensor, "*batch 24 3 3"]  # the root's in the world frame, the others' in their parent's

    @property
    def offsets_m(self) -> Float[Tensor, "*batch 24 3"]:
        """From each joint's parent to the joint, at rest; the root's is from the model's origin."""
        offsets = self.rest_joints_m.clone()
        offsets[..., 1:, :] -= self.rest_joints_m[..., list(PARENTS[1:]), :]
        return offsets

    def to_world(self) -> Float[Tensor, "*batch 24 4 4"]:
        """The transform from each joint's frame to the world frame, not relative to the rest pose."""
        offsets_m = self.offsets_m
        rotations, positions = [self.rotations[..., 0, :, :]], [self.root_world_m]
        for joint, parent in enumerate(PARENTS[1:], start=1):
            positions.append(positions[parent] + (rotations[parent] @ offsets_m[..., joint, :, None])[..., 0])
            rotations.append(rotations[parent] @ self.rotations[..., joint, :, :])
        rigid = torch.cat([torch.stack(rotations, dim=-3), torch.stack(positions, dim=-2)[..., None]], dim=-1)
        bottom = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(*rigid.shape[:-2], 1, 4)
        return torch.cat([rigid, bottom], dim=-2)


@torch.no_grad()
def skeleton_of(params: BodyParams, body: Body) -> Skeleton:
    """The skeletons of posed bodies. Hands of models with finger joints (SMPL-H, SMPL-X) stay flat."""
    params = params.to("cpu")
    rotations = roma.rotvec_to_rotmat(
        torch.cat([params.global_orient[..., None, :], params.body_pose], dim=-2)
    )
    if len(body.parents) > NUM_JOINTS:
        rotations[..., HANDS, :, :] = torch.eye(3)
    rotations[..., 0, :, :] = UPRIGHT @ rotations[..., 0, :, :]
    rest_joints_m = body.rest_joints(params.betas)
    root_world_m = (rest_joints_m[..., 0, :] + params.transl) @ UPRIGHT
    return Skeleton(rest_joints_m, root_world_m, rotations)
