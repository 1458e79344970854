"""Where the joints that were seen pull a body: one step of inverse kinematics, as an input of the denoiser.

Iterative regressors feed the reprojection of their last answer back into the next (HMR, CVPR 2018, arXiv 1712.06584;
PyMAF, ICCV 2021, arXiv 2103.16507). A denoiser is iterative already; what it lacks is sight of its own answer in the
image. Here every joint of a body hangs on two springs: to where it was seen, and to how far behind the pelvis it was
seen. The force on each of the body's parameters is what the denoiser is told: the negative gradient of the springs'
energy, in closed form.

| variable      | symbol  | equation                                                                                 |
|---------------|---------|------------------------------------------------------------------------------------------|
| residual      | r_j     | v_j (k_j - pi(p_j)) / sqrt(sigma_j^2 + floor^2), no longer than `STRONGEST`; crop units  |
| in depth      | q_j     | v_j (d_j - (z_j - z_0)) / sqrt(rho_j^2 + floor^2), no longer than `STRONGEST`; metres    |
| force         | f_j     | (d pi / d p_j)^T r_j, through the full perspective camera, and q_j along the axis; the   |
|               |         | pelvis bears all of -q_j                                                                 |
| torque        | tau_j   | sum over the joints d beyond j of (p_d - p_j) x f_d, in the frame of j's parent          |
| on rotations  |         | tau_j x (each of the two columns of R_j): how they move when R_j turns about tau_j       |
| on the shape  |         | sum over bones of the force beyond a bone, along the bone's change with each beta        |
| on the place  |         | the whole force, along the pelvis' change with (log s, u, v)                             |

with k_j and d_j where the joint was seen, sigma_j and rho_j the deviations and v_j the probability that it is in sight,
all the encoder's own: no gradient flows back. It is the gradient of sum_j (|r_j|^2 + q_j^2) / 2 but for one factor of
the deviation, which would let one sure reading outweigh all others.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmr.body.model import Body
from hmr.policy.encoder import JointReadings, read_joints
from hmr.policy.parametrization import split
from hmr.types import NUM_BETAS, NUM_JOINTS, PARENTS

__all__ = ["KeypointGradient"]

FLOOR = 0.05  # crop units and metres: no reading is surer than this about a body's joint
STRONGEST = 3.0  # of a residual, in deviations
NEAREST_M = 0.1
ABOVE = [0, *PARENTS[1:]]  # each joint's parent, the pelvis its own


def _beyond() -> Float[Tensor, "24 24"]:
    """Row j: 1 for j and for every joint that hangs on it."""
    beyond = torch.eye(NUM_JOINTS)
    for child in reversed(range(1, NUM_JOINTS)):
        beyond[PARENTS[child]] += beyond[child]
    return beyond


BEYOND = _beyond()


class KeypointGradient(nn.Module):
    """Holds the joints of the unposed body, which a policy remembers of the one that it was pretrained with."""

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
        """The pull on raw vectors of what a policy saw (`Seen.vector` and the box), in places like the vector's."""
        rotations, betas, place = split(vector)
        turns, joints_m = self._posed(rotations, betas)
        pelvis_m = _pelvis_m(place, features[..., -3:])
        told = read_joints(features[..., :-3])
        force = _force(joints_m + pelvis_m[..., None, :], told, features[..., -3:])
        force = force + _force_in_depth(joints_m, told)
        beyond = BEYOND.to(force)
        carried = beyond @ force  # by each joint, of all beyond it
        torque = beyond @ torch.linalg.cross(joints_m, force) - torch.linalg.cross(joints_m, carried)
        torque = torch.einsum("...jab,...ja->...jb", turns, torque)
        columns = torch.linalg.cross(torque[..., None, :], rotations[..., :2].transpose(-1, -2))
        grown = self.joint_shapedirs - self.joint_shapedirs[ABOVE]
        shape = torch.einsum("...ja,...jab,jbk->...k", carried, turns, grown)
        moved = _on_place(carried[..., 0, :], pelvis_m, features[..., -1:])
        return torch.cat([columns.transpose(-1, -2).flatten(-3), shape, moved], dim=-1)

    def _posed(
        self, rotations: Float[Tensor, "*batch 24 3 3"], betas: Float[Tensor, "*batch 10"]
    ) -> tuple[Float[Tensor, "*batch 24 3 3"], Float[Tensor, "*batch 24 3"]]:
        """The world rotation of each joint's parent (the identity for the pelvis'), and the joints, the pelvis at 0."""
        rest_m = self.joint_template + torch.einsum("jik,...k->...ji", self.joint_shapedirs, betas)
        bones_m = rest_m - rest_m[..., ABOVE, :]
        identity = torch.eye(3, device=rotations.device).expand_as(rotations[..., 0, :, :])
        world, turns, places = [rotations[..., 0, :, :]], [identity], [torch.zeros_like(bones_m[..., 0, :])]
        for child, parent in enumerate(PARENTS[1:], start=1):
            turns.append(world[parent])
            world.append(world[parent] @ rotations[..., child, :, :])
            places.append(places[parent] + (world[parent] @ bones_m[..., child, :, None])[..., 0])
        return torch.stack(turns, dim=-3), torch.stack(places, dim=-2)


def _pelvis_m(place: Float[Tensor, "*batch 3"], box: Float[Tensor, "*#batch 3"]) -> Float[Tensor, "*batch 3"]:
    """The pelvis in the camera's frame from (log s, u, v) and `hmr.policy.parametrization.box_features`."""
    side = box[..., 2:]
    depth_m = 2 / (place[..., :1].clamp(-5.0, 5.0).exp() * side)
    return torch.cat([(place[..., 1:] * side / 2 + box[..., :2]) * depth_m, depth_m], dim=-1)


def _force(
    joints_cam_m: Float[Tensor, "*batch 24 3"], told: JointReadings, box: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch 24 3"]:
    box, depth_m = box[..., None, :], joints_cam_m[..., 2:].clamp_min(NEAREST_M)
    slope = joints_cam_m[..., :2] / depth_m
    residual = told.keypoints - (slope - box[..., :2]) * 2 / box[..., 2:]
    residual = residual / (told.sigma.square() + FLOOR**2).sqrt()[..., None]
    across = _spring(residual, told.visible) * 2 / (box[..., 2:] * depth_m)
    return torch.cat([across, -(slope * across).sum(dim=-1, keepdim=True)], dim=-1)


def _force_in_depth(
    joints_m: Float[Tensor, "*batch 24 3"], told: JointReadings
) -> Float[Tensor, "*batch 24 3"]:
    """`joints_m` has the pelvis at 0. The forces of a body add up to nothing: depths are told from its pelvis."""
    residual = (told.depth_m - joints_m[..., 2]) / (told.depth_sigma_m.square() + FLOOR**2).sqrt()
    along = _spring(residual[..., None], told.visible)
    on_pelvis = along[..., :1, :] - along.sum(dim=-2, keepdim=True)
    along = torch.cat([on_pelvis, along[..., 1:, :]], dim=-2)
    return torch.cat([torch.zeros_like(along), torch.zeros_like(along), along], dim=-1)


def _spring(
    residual: Float[Tensor, "*batch 24 size"], visible: Float[Tensor, "*#batch 24"]
) -> Float[Tensor, "*batch 24 size"]:
    """Of the residual's own length up to `STRONGEST`, as far as the joint is in sight."""
    return (
        residual * visible[..., None] * STRONGEST / residual.norm(dim=-1, keepdim=True).clamp_min(STRONGEST)
    )


def _on_place(
    force: Float[Tensor, "*batch 3"], pelvis_m: Float[Tensor, "*batch 3"], side: Float[Tensor, "*#batch 1"]
) -> Float[Tensor, "*batch 3"]:
    """On (log s, u, v): a larger scale is a nearer pelvis on the same ray."""
    zoom = -(force * pelvis_m).sum(dim=-1, keepdim=True)
    return torch.cat([zoom, force[..., :2] * side / 2 * pelvis_m[..., 2:]], dim=-1)
