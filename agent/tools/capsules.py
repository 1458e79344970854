"""A body as 24 capsules, an approximation of the skin for fast collision tests.

Each part (the vertices that one joint moves most) becomes a segment with a radius. The segment is the part's principal
axis in the rest pose, shortened by the radius: a forearm gets the axis of its bone, a slab of the torso, wider than it
is high, a horizontal axis. Its ends are fixed affine combinations of vertices, and its radius is the 0.7 quantile of
the distances of sampled vertices. Both are computed from the posed vertices, so they follow pose and shape.

Segment distance: Ericson, "Real-Time Collision Detection", 2005, section 5.1.9.

Left out: fingers, soft tissue, and concave parts, whose hollow a capsule fills.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hmr.body.model import Body
from hmr.types import JOINT_NAMES, NUM_BETAS, NUM_JOINTS, BodyParams

__all__ = ["CapsuleModel", "Capsules", "fit_capsules", "segment_distance"]

END_VERTICES = 12  # vertices that define one end of a segment
RADIUS_VERTICES = 48  # vertices that define the radius
RADIUS_QUANTILE = 0.7  # of the distances from the axis
ARMS_DOWN_RAD = 1.3  # rotation of the shoulders around z that puts the arms beside the trunk
EXTENT = 0.95  # quantile of a part's vertices along its axis that defines its length


@dataclass(frozen=True)
class Capsules:
    """Posed capsules: the two ends of each segment, and its radius."""

    ends_m: Float[Tensor, "batch 2 24 3"]
    radius_m: Float[Tensor, "batch 24"]


@dataclass(frozen=True)
class CapsuleModel:
    """The vertices of a body that define its capsules."""

    end_vertices: Int[Tensor, "2 24 end_vertices"]
    end_weights: Float[Tensor, "2 24 end_vertices"]  # affine: they sum to 1
    radius_vertices: Int[Tensor, "24 radius_vertices"]

    def pose(self, vertices_m: Float[Tensor, "batch vertices 3"]) -> Capsules:
        ends_m = (vertices_m[:, self.end_vertices] * self.end_weights.to(vertices_m)[..., None]).sum(dim=-2)
        radius_vertices_m = vertices_m[:, self.radius_vertices]
        start, axis = ends_m[:, 0, :, None], (ends_m[:, 1] - ends_m[:, 0])[:, :, None]
        along = ((radius_vertices_m - start) * axis).sum(-1) / (axis**2).sum(-1).clamp_min(1e-12)
        foot = start + along.clamp(0, 1)[..., None] * axis
        return Capsules(ends_m, (radius_vertices_m - foot).norm(dim=-1).quantile(RADIUS_QUANTILE, dim=-1))


@lru_cache(maxsize=4)
def fit_capsules(body: Body) -> CapsuleModel:
    """The capsules of a body, from its skin weights and its rest pose at zero betas; cached per body."""
    rest_m = neutral_vertices(body)[0]
    part_of = body.skin_weights.argmax(dim=1)
    fits = [_fit_part(rest_m, torch.nonzero(part_of == part)[:, 0]) for part in range(NUM_JOINTS)]
    end_vertices, weights, radius_vertices = (torch.stack(column) for column in zip(*fits, strict=True))
    return CapsuleModel(end_vertices.transpose(0, 1), weights.transpose(0, 1), radius_vertices)


@torch.no_grad()
def neutral_vertices(body: Body) -> Float[Tensor, "2 vertices 3"]:
    """The average body's skin in metres in the rest pose (arms out) and with its arms down."""
    zeros = body.skin_weights.new_zeros
    body_pose = zeros(2, NUM_JOINTS - 1, 3)
    for name, angle in (("left_shoulder", -ARMS_DOWN_RAD), ("right_shoulder", ARMS_DOWN_RAD)):
        body_pose[1, JOINT_NAMES.index(name) - 1, 2] = angle
    return body(BodyParams(zeros(2, 3), body_pose, zeros(2, NUM_BETAS), zeros(2, 3))).vertices_cam_m


def _fit_part(
    rest_m: Float[Tensor, "vertices 3"], members: Int[Tensor, "members"]
) -> tuple[Int[Tensor, "2 end_vertices"], Float[Tensor, "2 end_vertices"], Int[Tensor, "radius_vertices"]]:
    """One part's two ends of vertices, their weights, and the vertices that define its radius."""
    points = rest_m[members]
    center = points.mean(dim=0)
    axis = torch.linalg.svd(points - center, full_matrices=False).Vh[0]
    along = (points - center) @ axis
    radius = (points - center - along[:, None] * axis).norm(dim=-1).median()
    stops = [
        min(float(along.quantile(1 - EXTENT) + radius), 0.0),
        max(float(along.quantile(EXTENT) - radius), 0.0),
    ]
    ends = [members[(along - stop).abs().argsort()[:END_VERTICES]] for stop in stops]
    weights = [
        _affine_weights(rest_m[end], center + stop * axis) for end, stop in zip(ends, stops, strict=True)
    ]
    radius_vertices = members[torch.linspace(0, len(members) - 1, RADIUS_VERTICES).round().long()]
    return torch.stack(ends), torch.stack(weights), radius_vertices


def _affine_weights(
    points: Float[Tensor, "end_vertices 3"], target: Float[Tensor, "3"]
) -> Float[Tensor, "end_vertices"]:
    """The smallest weights, summing to 1, whose combination of `points` is `target`."""
    rows = torch.cat([points.T, points.new_ones(1, len(points))])
    return torch.linalg.pinv(rows) @ torch.cat([target, target.new_ones(1)])


def segment_distance(
    a: Float[Tensor, "*batch 2 3"], b: Float[Tensor, "*batch 2 3"]
) -> Float[Tensor, "*batch"]:
    """The least distance between two segments, each given by its ends; a segment may be a point."""
    tiny = 1e-12
    u, v, w = a[..., 1, :] - a[..., 0, :], b[..., 1, :] - b[..., 0, :], a[..., 0, :] - b[..., 0, :]
    uu, vv, uv = (u * u).sum(-1).clamp_min(tiny), (v * v).sum(-1).clamp_min(tiny), (u * v).sum(-1)
    uw, vw = (u * w).sum(-1), (v * w).sum(-1)
    s = ((uv * vw - uw * vv) / (uu * vv - uv * uv).clamp_min(tiny)).clamp(0, 1)
    t = ((uv * s + vw) / vv).clamp(0, 1)
    s = ((uv * t - uw) / uu).clamp(0, 1)  # t may have been clamped: take the nearest point of `a` to it
    return (w + s[..., None] * u - t[..., None] * v).norm(dim=-1)
