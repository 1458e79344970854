"""Keypoint feedback: the gradient of a body's distance to the observed points, as an input of the denoiser.

Iterative regressors feed the reprojection of their last output into the next step (HMR, CVPR 2018, arXiv 1712.06584;
PyMAF, ICCV 2021, arXiv 2103.16507). A denoiser is iterative already, but has no input that compares its prediction with
the image. Here every observed point of the body (`hmr.types.POINT_NAMES`) is connected by two springs to its detected
position and to its detected depth relative to the pelvis. The input is the force on each parameter of the body, that is
the negative gradient of the springs' energy, in closed form.

| variable      | symbol  | equation                                                                                 |
|---------------|---------|------------------------------------------------------------------------------------------|
| residual      | r_i     | v_i w_i (k_i - pi(p_i)) / floor, of length <= `MAX_RESIDUAL`; crop units                 |
| in depth      | q_i     | v_i w'_i (d_i - (z_i - z_0)) / floor', of length <= `MAX_RESIDUAL`; metres               |
| force         | f_i     | (d pi / d p_i)^T r_i, through the full perspective camera, and q_i along the axis; the   |
|               |         | pelvis has all of -q_i                                                                   |
| torque        | tau_j   | sum over the points i moved by joint j of (p_i - p_j) x f_i, in the frame of j's parent  |
| on rotations  |         | tau_j x (each of the two columns of R_j): their change when R_j turns about tau_j        |
| on the shape  |         | sum over bones of the force beyond a bone, along the bone's change with each beta        |
| on the pelvis |         | the total force, along the pelvis' change with (log s, u, v)                             |

k_i, d_i, the weights w_i and w'_i and the visibility v_i are the detector's (`hmr.policy.condition`); no gradient flows
back. It is the gradient of sum_i (|r_i|^2 + q_i^2) / 2 except for one factor of the deviation, with which one very
certain point would outweigh all others.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hmr.body.model import Body
from hmr.body.surface_points import ATTACHED, PARENT, POINT_JOINTS, BodyPoints, PosedPoints
from hmr.policy.condition import DEPTH_FLOOR_M, FLOOR, PointEstimates, unpack_points
from hmr.policy.parametrization import split
from hmr.types import NUM_JOINTS, NUM_POINTS, PARENTS

__all__ = ["KeypointGradient"]

MAX_RESIDUAL = 3.0  # in deviations
MIN_DEPTH_M = 0.1


def _moved_points() -> Float[Tensor, "24 41"]:
    """Row j: 1 for every point that the rotation of joint j moves (and for j itself, which it leaves in place)."""
    moved = torch.zeros(NUM_JOINTS, NUM_POINTS)
    for point, joint in enumerate(POINT_JOINTS):
        while joint >= 0:
            moved[joint, point] = 1.0
            joint = PARENTS[joint]
    return moved


MOVED = _moved_points()


class KeypointGradient(nn.Module):
    """Holds the points of the unposed body that the policy was pretrained with."""

    def __init__(self) -> None:
        super().__init__()
        self.points = BodyPoints()

    def fit_to(self, body: Body) -> None:
        self.points.fit_to(body)

    @torch.no_grad()
    def forward(
        self, vector: Float[Tensor, "*batch 157"], condition: Float[Tensor, "*#batch channels"]
    ) -> Float[Tensor, "*batch 157"]:
        """Force on each entry of raw vectors. `condition`: of `hmr.policy.condition`."""
        rotations, betas, pelvis = split(vector)
        posed = self.points(rotations, betas)
        parent_rotations, points_m = posed.parent_world, posed.points_m
        box = condition[..., -3:]
        pelvis_m = _pelvis_m(pelvis, box)
        observed = unpack_points(condition[..., :-3])
        force = _force(points_m + pelvis_m[..., None, :], observed, box) + _force_in_depth(points_m, observed)
        moved, joints_m = MOVED.to(force), points_m[..., :NUM_JOINTS, :]
        total = moved @ force  # on all points that a joint moves
        torque = moved @ torch.linalg.cross(points_m, force) - torch.linalg.cross(joints_m, total)
        torque = torch.einsum("...jab,...ja->...jb", parent_rotations, torque)
        columns = torch.linalg.cross(torque[..., None, :], rotations[..., :2].transpose(-1, -2))
        shape = self._on_shape(total, force, posed)
        on_pelvis = _on_pelvis(total[..., 0, :], pelvis_m, box[..., -1:])
        return torch.cat([columns.transpose(-1, -2).flatten(-3), shape, on_pelvis], dim=-1)

    def _on_shape(
        self, total: Float[Tensor, "*batch 24 3"], force: Float[Tensor, "*batch 41 3"], posed: PosedPoints
    ) -> Float[Tensor, "*batch 10"]:
        points = self.points
        bone_shapedirs = points.joint_shapedirs - points.joint_shapedirs[PARENT]
        offset_shapedirs = points.surface_shapedirs - points.joint_shapedirs[ATTACHED]
        along_bones = torch.einsum("...ja,...jab->...jb", total, posed.parent_world)
        turned = posed.world[..., ATTACHED, :, :]
        along_offsets = torch.einsum("...pa,...pab->...pb", force[..., NUM_JOINTS:, :], turned)
        return torch.einsum("...jb,jbk->...k", along_bones, bone_shapedirs) + torch.einsum(
            "...pb,pbk->...k", along_offsets, offset_shapedirs
        )


def _pelvis_m(
    pelvis: Float[Tensor, "*batch 3"], box: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch 3"]:
    """The pelvis in the camera's frame from (log s, u, v) and `hmr.policy.parametrization.box_features`."""
    side = box[..., 2:]
    depth_m = 2 / (pelvis[..., :1].clamp(-5.0, 5.0).exp() * side)
    return torch.cat([(pelvis[..., 1:] * side / 2 + box[..., :2]) * depth_m, depth_m], dim=-1)


def _force(
    points_cam_m: Float[Tensor, "*batch 41 3"], observed: PointEstimates, box: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch 41 3"]:
    box, depth_m = box[..., None, :], points_cam_m[..., 2:].clamp_min(MIN_DEPTH_M)
    slope = points_cam_m[..., :2] / depth_m
    residual = observed.position - (slope - box[..., :2]) * 2 / box[..., 2:]
    residual = residual * observed.weight[..., None] / FLOOR
    across = _spring(residual, observed.visibility) * 2 / (box[..., 2:] * depth_m)
    return torch.cat([across, -(slope * across).sum(dim=-1, keepdim=True)], dim=-1)


def _force_in_depth(
    points_m: Float[Tensor, "*batch 41 3"], observed: PointEstimates
) -> Float[Tensor, "*batch 41 3"]:
    """`points_m` has the pelvis at the origin. The forces sum to zero, because depths are relative to the pelvis."""
    residual = (observed.depth_m - points_m[..., 2]) * observed.depth_weight / DEPTH_FLOOR_M
    along = _spring(residual[..., None], observed.visibility)
    on_pelvis = along[..., :1, :] - along.sum(dim=-2, keepdim=True)
    along = torch.cat([on_pelvis, along[..., 1:, :]], dim=-2)
    return torch.cat([torch.zeros_like(along), torch.zeros_like(along), along], dim=-1)


def _spring(
    residual: Float[Tensor, "*batch 41 size"], visible: Float[Tensor, "*#batch 41"]
) -> Float[Tensor, "*batch 41 size"]:
    """The residual, cut to length `MAX_RESIDUAL`, times the probability that the point is visible."""
    length = residual.norm(dim=-1, keepdim=True)
    return residual * visible[..., None] * MAX_RESIDUAL / length.clamp_min(MAX_RESIDUAL)


def _on_pelvis(
    force: Float[Tensor, "*batch 3"], pelvis_m: Float[Tensor, "*batch 3"], side: Float[Tensor, "*#batch 1"]
) -> Float[Tensor, "*batch 3"]:
    """Force on (log s, u, v): a larger scale moves the pelvis nearer on the same ray."""
    zoom = -(force * pelvis_m).sum(dim=-1, keepdim=True)
    return torch.cat([zoom, force[..., :2] * side / 2 * pelvis_m[..., 2:]], dim=-1)
