"""Conversion between SMPL parameters and the vector that the policy diffuses.

The vector holds 24 rotations in 6D (the first two columns of the matrix, Zhou et al., CVPR 2019, arXiv 1812.07035),
10 betas, and the pelvis in the crop: log scale and position (weak perspective inside the crop, full perspective
outside, as in CLIFF, arXiv 2208.00571, equations 3 to 5).

| variable     | symbol    | equation                                                  |
|--------------|-----------|-----------------------------------------------------------|
| box side     | b         | side of the square crop in image pixels                   |
| log scale    | log s     | s = 2 f / (z b): half crop sides per metre at the pelvis  |
| pelvis u, v  | (u, v)    | crop units: (pixel - box centre) / (b / 2)                |
| pelvis depth | z         | z = 2 f / (s b)                                           |

The pelvis in the crop does not depend on the focal length, so ground truth through the true camera and a hypothesis
under an estimated camera have the same vector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from hmr.types import NUM_BETAS, NUM_JOINTS, BodyParams, Box, Camera

__all__ = [
    "ROTATION_SIZE",
    "VECTOR_SIZE",
    "box_features",
    "camera_of",
    "geometry_of",
    "params_from_vector",
    "pelvis_from_crop",
    "project",
    "split",
    "vector_from_params",
]

ROTATION_SIZE = NUM_JOINTS * 6
VECTOR_SIZE = ROTATION_SIZE + NUM_BETAS + 3
MIN_DEPTH_M = 0.1  # a pelvis nearer than this is behind or inside the lens


def geometry_of(cameras: Sequence[Camera], boxes: Sequence[Box]) -> Float[Tensor, "batch 8"]:
    """Each row in pixels of the whole image: focal, cx, cy, width, height, crop centre x, crop centre y, crop side."""
    rows = [
        (*dataclasses.astuple(camera), *box.center, box.side)
        for camera, box in zip(cameras, boxes, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float32)


def camera_of(geometry: Float[Tensor, "8"]) -> Camera:
    """The camera of a row of `geometry_of`."""
    focal, cx, cy, width, height = geometry[:5].tolist()
    return Camera(focal, cx, cy, int(width), int(height))


def box_features(geometry: Float[Tensor, "batch 8"]) -> Float[Tensor, "batch 3"]:
    """Position of the crop in the view: (centre - principal point) / f, and side / f (CLIFF's box information)."""
    focal, cx, cy, _, _, box_x, box_y, side = geometry.unbind(-1)
    return torch.stack([(box_x - cx) / focal, (box_y - cy) / focal, side / focal], dim=-1)


def split(
    vector: Float[Tensor, "*batch 157"],
) -> tuple[Float[Tensor, "*batch 24 3 3"], Float[Tensor, "*batch 10"], Float[Tensor, "*batch 3"]]:
    """Rotation matrices, betas, and (log s, u, v)."""
    columns = vector[..., :ROTATION_SIZE].unflatten(-1, (NUM_JOINTS, 3, 2))
    return (
        roma.special_gramschmidt(columns),
        vector[..., ROTATION_SIZE : ROTATION_SIZE + NUM_BETAS],
        vector[..., ROTATION_SIZE + NUM_BETAS :],
    )


def vector_from_params(
    params: BodyParams, pelvis_cam_m: Float[Tensor, "*batch 3"], geometry: Float[Tensor, "*#batch 8"]
) -> Float[Tensor, "*batch 157"]:
    """`pelvis_cam_m`: position of the posed pelvis, transl + the rest pelvis; `geometry` broadcasts over the batch."""
    rotvecs = torch.cat([params.global_orient[..., None, :], params.body_pose], dim=-2)
    columns = roma.rotvec_to_rotmat(rotvecs)[..., :2].flatten(-3)
    focal, cx, cy, _, _, box_x, box_y, side = geometry.unbind(-1)
    x, y, z = pelvis_cam_m.unbind(-1)
    z = z.clamp_min(MIN_DEPTH_M)
    pelvis = torch.stack(
        [
            (2 * focal / (z * side)).log(),
            (focal * x / z + cx - box_x) * 2 / side,
            (focal * y / z + cy - box_y) * 2 / side,
        ],
        dim=-1,
    )
    return torch.cat([columns, params.betas, pelvis], dim=-1)


def pelvis_from_crop(
    pelvis: Float[Tensor, "*batch 3"], geometry: Float[Tensor, "*#batch 8"]
) -> Float[Tensor, "*batch 3"]:
    """The pelvis in the camera's frame, metres, from (log s, u, v)."""
    focal, cx, cy, _, _, box_x, box_y, side = geometry.unbind(-1)
    log_scale, u, v = pelvis.unbind(-1)
    z = 2 * focal / (log_scale.clamp(-5.0, 5.0).exp() * side)
    x = (u * side / 2 + box_x - cx) * z / focal
    y = (v * side / 2 + box_y - cy) * z / focal
    return torch.stack([x, y, z], dim=-1)


def project(
    points_cam_m: Float[Tensor, "*batch points 3"], geometry: Float[Tensor, "*#batch 8"]
) -> Float[Tensor, "*batch points 2"]:
    """`Camera.project` with one camera per row of `geometry`: pixels of the whole image."""
    focal, cx, cy = geometry[..., None, :3].unbind(-1)
    x, y, z = points_cam_m.unbind(-1)
    z = z.clamp_min(0.01)
    return torch.stack([focal * x / z + cx, focal * y / z + cy], dim=-1)


def params_from_vector(
    vector: Float[Tensor, "*batch 157"],
    rest_pelvis_m: Float[Tensor, "*batch 3"],
    geometry: Float[Tensor, "*#batch 8"],
) -> BodyParams:
    """The inverse of `vector_from_params`; `rest_pelvis_m`: rest position of the pelvis for the vector's betas."""
    rotations, betas, pelvis = split(vector)
    rotvecs = roma.rotmat_to_rotvec(rotations)
    return BodyParams(
        rotvecs[..., 0, :], rotvecs[..., 1:, :], betas, pelvis_from_crop(pelvis, geometry) - rest_pelvis_m
    )
