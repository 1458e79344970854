"""Errors of hypotheses in millimetres, and the ways to reduce them over a group.

| here | symbol | definition |
|---|---|---|
| `mpjpe_mm` | MPJPE(h) | mean over joints of their distance, both skeletons moved to put the pelvis at 0 |
| `pa_mpjpe_mm` | PA-MPJPE(h) | the same after the best similarity (least squares; Umeyama, TPAMI 1991) |
| `pve_mm` | PVE(h) | mean over vertices of their distance, both bodies moved by their pelvis joint |
| `joint_std_mm` | sigma_j | standard deviation of one joint over a group |
| `spread_mm` | mean_j sigma_j | its mean over the joints asked for |
| `min_of_errors` | min_m e(h_m) | the best of the first `count` hypotheses, chosen by the truth |
| `mean_of_errors` | mean_m e(h_m) | the mean of the errors; *not* the error of the mean |
| `average_pose` | avg_m h_m | the averaged body: e(avg_m h_m) is another, usually lower number |
| `pick_of_errors` | e(h_argmax s) | the error of the hypothesis that a scorer ranks best |

Every function keeps the dtype it is given and takes any batch shape; the truth broadcasts over hypotheses.
Left out: the 14- and 17-joint regressions of Human3.6M and 3DPW, which need a body model's own regressor and
belong to those data sets' modules, and accelerations, because a photograph has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hmr.types import BodyParams

__all__ = [
    "PELVIS",
    "about_pelvis",
    "average_pose",
    "joint_std_mm",
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
    """The skeleton moved so that its own pelvis is the origin."""
    return joints_cam_m - joints_cam_m[..., PELVIS : PELVIS + 1, :]


def mpjpe_mm(
    pred_joints_cam_m: Float[Tensor, "*#batch 24 3"], true_joints_cam_m: Float[Tensor, "*#batch 24 3"]
) -> Float[Tensor, "*#batch"]:
    """Mean per-joint position error over all 24 joints, pelvis-aligned (the pelvis counts, as a zero)."""
    return _mean_distance_mm(about_pelvis(pred_joints_cam_m), about_pelvis(true_joints_cam_m))


def pa_mpjpe_mm(
    pred_joints_cam_m: Float[Tensor, "*#batch 24 3"], true_joints_cam_m: Float[Tensor, "*#batch 24 3"]
) -> Float[Tensor, "*#batch"]:
    """MPJPE after the best similarity of each hypothesis on its own: no reflection, but scale.

    A prediction whose joints all coincide has no orientation and no size: it is moved onto the true centroid.
    """
    pred, true = torch.broadcast_tensors(about_pelvis(pred_joints_cam_m), about_pelvis(true_joints_cam_m))
    registered = roma.rigid_points_registration(pred, true, compute_scaling=True)
    rotation, translation, scale = cast("tuple[Tensor, Tensor, Tensor]", registered)
    aligned = scale[..., None, None] * pred @ rotation.mT + translation[..., None, :]
    # Coincident joints are exact zeros about their pelvis, and roma's scale is then 0 / 0.
    coincident = (pred == 0).all(dim=-1).all(dim=-1)[..., None, None]
    return _mean_distance_mm(torch.where(coincident, true.mean(dim=-2, keepdim=True), aligned), true)


def pve_mm(
    pred_vertices_cam_m: Float[Tensor, "*#batch vertices 3"],
    pred_joints_cam_m: Float[Tensor, "*#batch 24 3"],
    true_vertices_cam_m: Float[Tensor, "*#batch vertices 3"],
    true_joints_cam_m: Float[Tensor, "*#batch 24 3"],
) -> Float[Tensor, "*#batch"]:
    """Mean per-vertex error of bodies of one topology, each moved by its own pelvis joint."""
    pred = pred_vertices_cam_m - pred_joints_cam_m[..., PELVIS : PELVIS + 1, :]
    true = true_vertices_cam_m - true_joints_cam_m[..., PELVIS : PELVIS + 1, :]
    return _mean_distance_mm(pred, true)


def joint_std_mm(joints_cam_m: Float[Tensor, "*batch group 24 3"]) -> Float[Tensor, "*batch 24"]:
    """How far the hypotheses disagree on each joint: sqrt(mean_g |p_gj - mean_g p_gj|^2).

    The root of the summed variance of x, y and z (population form, over G), skeletons pelvis-aligned: the pelvis
    itself is zero.
    """
    joints = about_pelvis(joints_cam_m)
    variance = (joints - joints.mean(dim=-3, keepdim=True)).square().sum(dim=-1).mean(dim=-2)
    return MM_PER_M * variance.sqrt()


def spread_mm(
    joints_cam_m: Float[Tensor, "*batch group 24 3"], joint_mask: Bool[Tensor, "*#batch 24"]
) -> Float[Tensor, "*batch"]:
    """How far hypotheses lie apart: the mean of `joint_std_mm` over the joints of the mask.

    The pelvis is left out, being zero by the alignment. NaN where the mask holds no other joint: there is no
    spread of nothing, and zero would read as perfect agreement.
    """
    per_joint = joint_std_mm(joints_cam_m)
    weights = joint_mask.to(per_joint.dtype).expand(per_joint.shape)[..., PELVIS + 1 :]
    return (per_joint[..., PELVIS + 1 :] * weights).sum(dim=-1) / weights.sum(dim=-1)


def min_of_errors(errors_mm: Float[Tensor, "*batch group"], count: int) -> Float[Tensor, "*batch"]:
    """min_m e(h_m) over the first `count` hypotheses: an oracle's choice, lower for larger counts by itself.

    Raises ValueError if the group holds fewer than `count`, which is part of the number's name.
    """
    if not 1 <= count <= errors_mm.shape[-1]:
        raise ValueError(
            f"a minimum over {count} hypotheses needs a group of that many, not {errors_mm.shape[-1]}"
        )
    return errors_mm[..., :count].amin(dim=-1)


def mean_of_errors(errors_mm: Float[Tensor, "*batch group"]) -> Float[Tensor, "*batch"]:
    """mean_m e(h_m): what one random hypothesis costs. The averaged pose has e(average_pose(h)) instead."""
    return errors_mm.mean(dim=-1)


def pick_of_errors(
    errors_mm: Float[Tensor, " group"], scores: Sequence[float | None]
) -> Float[Tensor, ""] | None:
    """Error of the best-scored hypothesis; None if every score is None.

    Hypotheses without a score cannot be picked. Equal best scores give the mean of their errors, what a fair
    coin would expect: taking the first would favour hypothesis 0, which starts from zero noise.
    """
    known = [score for score in scores if score is not None]
    if not known:
        return None
    best = [index for index, score in enumerate(scores) if score == max(known)]
    return errors_mm[best].mean()


def average_pose(params: BodyParams, weights: Float[Tensor, "*batch group"] | None = None) -> BodyParams:
    """The mean body over the last batch dimension, (..., G) -> (...); `weights`, which add up to 1 over it, make some
    hypotheses count more.

    Rotations by the chordal mean (the rotation nearest to the averaged matrices; Hartley et al., IJCV 2013,
    section 5.3), betas and transl by the arithmetic mean.
    """
    shape = params.batch_shape
    share = torch.full(shape, 1 / shape[-1]) if weights is None else weights
    share = share.to(params.betas)

    def mean(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        spread_out = share.reshape(*shape, *[1] * (values.ndim - len(shape)))
        return (spread_out * values).sum(dim=len(shape) - 1)

    def mean_rotvec(rotvec: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
        return roma.rotmat_to_rotvec(roma.special_procrustes(mean(roma.rotvec_to_rotmat(rotvec))))

    turned = mean_rotvec(params.global_orient), mean_rotvec(params.body_pose)
    return BodyParams(*turned, mean(params.betas), mean(params.transl))


def _mean_distance_mm(
    pred_m: Float[Tensor, "*#batch points 3"], true_m: Float[Tensor, "*#batch points 3"]
) -> Float[Tensor, "*#batch"]:
    return MM_PER_M * (pred_m - true_m).norm(dim=-1).mean(dim=-1)
