"""Errors of hypotheses in millimetres, and their reductions over a group.

| here | symbol | definition |
|---|---|---|
| `mpjpe_mm` | MPJPE(h) | mean distance of the joints, both skeletons relative to their pelvis |
| `pa_mpjpe_mm` | PA-MPJPE(h) | the same after a similarity alignment (least squares; Umeyama, TPAMI 1991) |
| `pve_mm` | PVE(h) | mean distance of the vertices, both bodies relative to their pelvis joint |
| `group_errors_mm` | | the three errors above of every body of a group |
| `joint_std_mm` | sigma_j | standard deviation of one joint over a group |
| `spread_mm` | mean_j sigma_j | mean over the given joints |
| `min_of_errors` | min_m e(h_m) | the smallest error of the first `count` hypotheses (an oracle) |
| `mean_of_errors` | mean_m e(h_m) | the mean of the errors; *not* the error of the mean |
| `average_pose` | avg_m h_m | the averaged body; e(avg_m h_m) is usually lower than the mean error |
| `pick_of_errors` | e(h_argmax s) | the error of the hypothesis with the best score |

Every function keeps the dtype of its input and accepts any batch shape; the truth broadcasts over hypotheses.
Left out: the 14- and 17-joint protocols of Human3.6M and 3DPW, which need a regressor of the body model
(hmr/datasets/protocols.py), and accelerations, which need a video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hmr.types import BodyParams, Posed, Truth

__all__ = [
    "PELVIS",
    "about_pelvis",
    "align_by_similarity",
    "average_pose",
    "group_errors_mm",
    "joint_std_mm",
    "mean_distance_mm",
    "mean_of_errors",
    "min_of_errors",
    "mpjpe_mm",
    "pa_mpjpe_mm",
    "pick_of_errors",
    "pve_mm",
    "spread_mm",
]

PELVIS = 0
MM_PER_M = 1000.0


def about_pelvis(joints_cam_m: Float[Tensor, "*batch 24 3"]) -> Float[Tensor, "*batch 24 3"]:
    """The skeleton relative to its pelvis."""
    return joints_cam_m - joints_cam_m[..., PELVIS : PELVIS + 1, :]


def mpjpe_mm(
    pred_joints_cam_m: Float[Tensor, "*#batch 24 3"], true_joints_cam_m: Float[Tensor, "*#batch 24 3"]
) -> Float[Tensor, "*#batch"]:
    """Mean per-joint position error over all 24 joints, pelvis-aligned (including the pelvis, whose error is 0)."""
    return mean_distance_mm(about_pelvis(pred_joints_cam_m), about_pelvis(true_joints_cam_m))


def pa_mpjpe_mm(
    pred_joints_cam_m: Float[Tensor, "*#batch 24 3"], true_joints_cam_m: Float[Tensor, "*#batch 24 3"]
) -> Float[Tensor, "*#batch"]:
    """MPJPE after aligning each hypothesis by a similarity: rotation, translation and scale, no reflection.

    A prediction whose joints all coincide has no orientation and no scale; it is moved to the centroid of the truth.
    """
    pred, true = torch.broadcast_tensors(about_pelvis(pred_joints_cam_m), about_pelvis(true_joints_cam_m))
    aligned = align_by_similarity(pred, true)
    # If all joints coincide, they are exactly 0 relative to the pelvis, and roma's scale is 0 / 0.
    coincident = (pred == 0).all(dim=-1).all(dim=-1)[..., None, None]
    return mean_distance_mm(torch.where(coincident, true.mean(dim=-2, keepdim=True), aligned), true)


def align_by_similarity(
    pred_m: Float[Tensor, "*batch points 3"], true_m: Float[Tensor, "*batch points 3"]
) -> Float[Tensor, "*batch points 3"]:
    """The predicted points after the least-squares similarity to the true ones (Umeyama, TPAMI 1991)."""
    registered = roma.rigid_points_registration(pred_m, true_m, compute_scaling=True)
    rotation, translation, scale = cast("tuple[Tensor, Tensor, Tensor]", registered)
    return scale[..., None, None] * pred_m @ rotation.mT + translation[..., None, :]


def pve_mm(
    pred_vertices_cam_m: Float[Tensor, "*#batch vertices 3"],
    pred_joints_cam_m: Float[Tensor, "*#batch 24 3"],
    true_vertices_cam_m: Float[Tensor, "*#batch vertices 3"],
    true_joints_cam_m: Float[Tensor, "*#batch 24 3"],
) -> Float[Tensor, "*#batch"]:
    """Mean per-vertex error of bodies with one topology, each relative to its own pelvis joint."""
    pred = pred_vertices_cam_m - pred_joints_cam_m[..., PELVIS : PELVIS + 1, :]
    true = true_vertices_cam_m - true_joints_cam_m[..., PELVIS : PELVIS + 1, :]
    return mean_distance_mm(pred, true)


@torch.no_grad()
def group_errors_mm(
    body: Callable[[BodyParams], Posed], params: BodyParams, truth: Truth
) -> dict[str, Float[Tensor, " group"]]:
    """`mpjpe_mm`, `pa_mpjpe_mm` and `pve_mm` of every body of a group, by these names."""
    posed, true = body(params), body(truth.params)
    joints, true_joints = posed.joints_cam_m, truth.joints_cam_m
    return {
        "mpjpe_mm": mpjpe_mm(joints, true_joints),
        "pa_mpjpe_mm": pa_mpjpe_mm(joints, true_joints),
        "pve_mm": pve_mm(posed.vertices_cam_m, joints, true.vertices_cam_m, true.joints_cam_m),
    }


def joint_std_mm(joints_cam_m: Float[Tensor, "*batch group 24 3"]) -> Float[Tensor, "*batch 24"]:
    """Standard deviation of each joint over the group: sqrt(mean_g |p_gj - mean_g p_gj|^2).

    The square root of the summed variances of x, y and z (population variance, over G) of pelvis-aligned skeletons; 0
    for the pelvis.
    """
    joints = about_pelvis(joints_cam_m)
    variance = (joints - joints.mean(dim=-3, keepdim=True)).square().sum(dim=-1).mean(dim=-2)
    return MM_PER_M * variance.sqrt()


def spread_mm(
    joints_cam_m: Float[Tensor, "*batch group 24 3"], joint_mask: Bool[Tensor, "*#batch 24"]
) -> Float[Tensor, "*batch"]:
    """Spread of a group: the mean of `joint_std_mm` over the joints of the mask.

    The pelvis is excluded, because its std is 0 by alignment. NaN if the mask has no other joint: 0 would mean perfect
    agreement.
    """
    per_joint = joint_std_mm(joints_cam_m)
    weights = joint_mask.to(per_joint.dtype).expand(per_joint.shape)[..., PELVIS + 1 :]
    return (per_joint[..., PELVIS + 1 :] * weights).sum(dim=-1) / weights.sum(dim=-1)


def min_of_errors(errors_mm: Float[Tensor, "*batch group"], count: int) -> Float[Tensor, "*batch"]:
    """min_m e(h_m) over the first `count` hypotheses, the choice of an oracle; it decreases with `count`.

    Raises ValueError if the group has fewer than `count` hypotheses.
    """
    if not 1 <= count <= errors_mm.shape[-1]:
        raise ValueError(
            f"a minimum over {count} hypotheses needs a group of that many, not {errors_mm.shape[-1]}"
        )
    return errors_mm[..., :count].amin(dim=-1)


def mean_of_errors(errors_mm: Float[Tensor, "*batch group"]) -> Float[Tensor, "*batch"]:
    """mean_m e(h_m): the expected error of a random hypothesis, not the error of `average_pose`."""
    return errors_mm.mean(dim=-1)


def pick_of_errors(
    errors_mm: Float[Tensor, " group"], scores: Sequence[float | None]
) -> Float[Tensor, ""] | None:
    """Error of the hypothesis with the best score; None if every score is None.

    Hypotheses without a score are ignored. If several have the best score, the result is the mean of their errors:
    taking the first would favour hypothesis 0, which starts from zero noise.
    """
    known = [score for score in scores if score is not None]
    if not known:
        return None
    best = [index for index, score in enumerate(scores) if score == max(known)]
    return errors_mm[best].mean()


def average_pose(params: BodyParams, weights: Float[Tensor, "*batch group"] | None = None) -> BodyParams:
    """The mean body over the last batch dimension, (..., G) -> (...), weighted by `weights`, which sum to 1 over it.

    Rotations by the chordal mean (the rotation nearest to the averaged matrices; Hartley et al., IJCV 2013,
    section 5.3), betas and transl by the arithmetic mean.
    """
    shape = params.batch_shape
    weights = torch.full(shape, 1 / shape[-1]) if weights is None else weights
    weights = weights.to(params.betas)

    def mean(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        expanded = weights.reshape(*shape, *[1] * (values.ndim - len(shape)))
        return (expanded * values).sum(dim=len(shape) - 1)

    def mean_rotvec(rotvec: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
        return roma.rotmat_to_rotvec(roma.special_procrustes(mean(roma.rotvec_to_rotmat(rotvec))))

    rotations = mean_rotvec(params.global_orient), mean_rotvec(params.body_pose)
    return BodyParams(*rotations, mean(params.betas), mean(params.transl))


def mean_distance_mm(
    pred_m: Float[Tensor, "*#batch points 3"], true_m: Float[Tensor, "*#batch points 3"]
) -> Float[Tensor, "*#batch"]:
    """Mean distance of corresponding points, from metres to millimetres."""
    return MM_PER_M * (pred_m - true_m).norm(dim=-1).mean(dim=-1)
