"""Keypoint feedback: the gradient of a body's distance to the detected joints, as an input of the denoiser.

Iterative regressors feed the reprojection of their last output into the next step (HMR, CVPR 2018, arXiv 1712.06584;
PyMAF, ICCV 2021, arXiv 2103.16507). A denoiser is iterative already, but has no input that compares its prediction with
the image. Here every joint is connected by two springs to its detected position and to its detected depth relative to
the pelvis. The input is the force on each parameter of the body, that is the negative gradient of the springs' energy,
in closed form.

| variable      | symbol  | equation                                                                                 |
|---------------|---------|------------------------------------------------------------------------------------------|
| residual      | r_j     | v_j (k_j - pi(p_j)) / sqrt(sigma_j^2 + floor^2), of length <= `MAX_RESIDUAL`; crop units |
| in depth      | q_j     | v_j (d_j - (z_j - z_0)) / sqrt(rho_j^2 + floor^2), of length <= `MAX_RESIDUAL`; metres   |
| force         | f_j     | (d pi / d p_j)^T r_j, through the full perspective camera, and q_j along the axis; the   |
|               |         | pelvis has all of -q_j                                                                   |
| torque        | tau_j   | sum over the descendants d of j of (p_d - p_j) x f_d, in the frame of j's parent         |
| on rotations  |         | tau_j x (each of the two columns of R_j): their change when R_j turns about tau_j        |
| on the shape  |         | sum over bones of the force beyond a bone, along the bone's change with each beta        |
| on the pelvis |         | the total force, along the pelvis' change with (log s, u, v)                             |

k_j and d_j are the detected position and depth, sigma_j and rho_j their deviations and v_j the probability of being
visible, all from the encoder; no gradient flows back. It is the gradient of sum_j (|r_j|^2 + q_j^2) / 2 except for one
factor of the deviation, with which one very certain joint would outweigh all others.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmr.body.model import Body
from hmr.policy.encoder import JointEstimates, unpack_joints
from hmr.policy.parametrization import split
from hmr.types import NUM_BETAS, NUM_JOINTS, PARENTS

__all__ = ["KeypointGradient"]

FLOOR = 0.05  # crop units and metres; added to the deviation of every detected joint
MAX_RESIDUAL = 3.0  # in deviations
MIN_DEPTH_M = 0.1
PARENT = [0, *PARENTS[1:]]  # of each joint; the pelvis is its own


def _descendants() -> Float[Tensor, "24 24"]:
    """Row j: 1 for j and for each of its descendants."""
    descendants = torch.eye(NUM_JOINTS)
    for child in reversed(range(1, NUM_JOINTS)):
        descendants[PARENTS[child]] += descendants[child]
    return descendants


DESCENDANTS = _descendants()


class KeypointGradient(nn.Module):
    """Holds the joints of the unposed body that the policy was pretrained with."""

    joint_template: Tensor
    joint_shapedirs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("joint_template", torch.zeros(NUM_JOINTS, 3))
        self.register_buffer("joint_shapedirs", torch.zeros(NUM_JOINTS, 3, NUM_BETAS))

    def fit_to(self, body: Body) -> None:
        self.joint_template.copy_(body.joint_template)
        self.joint_shapedirs.copy_(body.joint_shapedirs)

    @torch.no_grad()
    def forward(
        self, vector: Float[Tensor, "*batch 157"], features: Float[Tensor, "*#batch features"]
    ) -> Float[Tensor, "*batch 157"]:
        """Force on each entry of raw vectors. `features`: `EncoderOutput.vector` and the box features."""
        rotations, betas, pelvis = split(vector)
        parent_rotations, joints_m = self._posed(rotations, betas)
        pelvis_m = _pelvis_m(pelvis, features[..., -3:])
        detected = unpack_joints(features[..., :-3])
        force = _force(joints_m + pelvis_m[..., None, :], detected, features[..., -3:])
        force = force + _force_in_depth(joints_m, detected)
        descendants = DESCENDANTS.to(force)
        total = descendants @ force  # on each joint and its descendants
        torque = descendants @ torch.linalg.cross(joints_m, force) - torch.linalg.cross(joints_m, total)
        torque = torch.einsum("...jab,...ja->...jb", parent_rotations, torque)
        columns = torch.linalg.cross(torque[..., None, :], rotations[..., :2].transpose(-1, -2))
        bone_shapedirs = self.joint_shapedirs - self.joint_shapedirs[PARENT]
        shape = torch.einsum("...ja,...jab,jbk->...k", total, parent_rotations, bone_shapedirs)
        on_pelvis = _on_pelvis(total[..., 0, :], pelvis_m, features[..., -1:])
        return torch.cat([columns.transpose(-1, -2).flatten(-3), shape, on_pelvis], dim=-1)

    def _posed(
        self, rotations: Float[Tensor, "*batch 24 3 3"], betas: Float[Tensor, "*batch 10"]
    ) -> tuple[Float[Tensor, "*batch 24 3 3"], Float[Tensor, "*batch 24 3"]]:
        """World rotation of each joint's parent (identity for the pelvis), and joints with the pelvis at the origin."""
        rest_m = self.joint_template + torch.einsum("jik,...k->...ji", self.joint_shapedirs, betas)
        bones_m = rest_m - rest_m[..., PARENT, :]
        identity = torch.eye(3, device=rotations.device).expand_as(rotations[..., 0, :, :])
        world, parent_rotations = [rotations[..., 0, :, :]], [identity]
        joints_m = [torch.zeros_like(bones_m[..., 0, :])]
        for child, parent in enumerate(PARENTS[1:], start=1):
            parent_rotations.append(world[parent])
            world.append(world[parent] @ rotations[..., child, :, :])
            joints_m.append(joints_m[parent] + (world[parent] @ bones_m[..., child, :, None])[..., 0])
        return torch.stack(parent_rotations, dim=-3), torch.stack(joints_m, dim=-2)


def _pelvis_m(
    pelvis: Float[Tensor, "*batch 3"], box: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch 3"]:
    """The pelvis in the camera's frame from (log s, u, v) and `hmr.policy.parametrization.box_features`."""
    side = box[..., 2:]
    depth_m = 2 / (pelvis[..., :1].clamp(-5.0, 5.0).exp() * side)
    return torch.cat([(pelvis[..., 1:] * side / 2 + box[..., :2]) * depth_m, depth_m], dim=-1)


def _force(
    joints_cam_m: Float[Tensor, "*batch 24 3"], detected: JointEstimates, box: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch 24 3"]:
    box, depth_m = box[..., None, :], joints_cam_m[..., 2:].clamp_min(MIN_DEPTH_M)
    slope = joints_cam_m[..., :2] / depth_m
    residual = detected.keypoints - (slope - box[..., :2]) * 2 / box[..., 2:]
    residual = residual / (detected.sigma.square() + FLOOR**2).sqrt()[..., None]
    across = _spring(residual, detected.visible) * 2 / (box[..., 2:] * depth_m)
    return torch.cat([across, -(slope * across).sum(dim=-1, keepdim=True)], dim=-1)


def _force_in_depth(
    joints_m: Float[Tensor, "*batch 24 3"], detected: JointEstimates
) -> Float[Tensor, "*batch 24 3"]:
    """`joints_m` has the pelvis at the origin. The forces sum to zero, because depths are relative to the pelvis."""
    residual = (detected.depth_m - joints_m[..., 2]) / (detected.depth_sigma_m.square() + FLOOR**2).sqrt()
    along = _spring(residual[..., None], detected.visible)
    on_pelvis = along[..., :1, :] - along.sum(dim=-2, keepdim=True)
    along = torch.cat([on_pelvis, along[..., 1:, :]], dim=-2)
    return torch.cat([torch.zeros_like(along), torch.zeros_like(along), along], dim=-1)


def _spring(
    residual: Float[Tensor, "*batch 24 size"], visible: Float[Tensor, "*#batch 24"]
) -> Float[Tensor, "*batch 24 size"]:
    """The residual, cut to length `MAX_RESIDUAL`, times the probability that the joint is visible."""
    length = residual.norm(dim=-1, keepdim=True)
    return residual * visible[..., None] * MAX_RESIDUAL / length.clamp_min(MAX_RESIDUAL)


def _on_pelvis(
    force: Float[Tensor, "*batch 3"], pelvis_m: Float[Tensor, "*batch 3"], side: Float[Tensor, "*#batch 1"]
) -> Float[Tensor, "*batch 3"]:
    """Force on (log s, u, v): a larger scale moves the pelvis nearer on the same ray."""
    zoom = -(force * pelvis_m).sum(dim=-1, keepdim=True)
    return torch.cat([zoom, force[..., :2] * side / 2 * pelvis_m[..., 2:]], dim=-1)
