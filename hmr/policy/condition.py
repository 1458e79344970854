"""The policy's condition: a detection as numbers, relative to the square about the person's box.

| variable     | symbol | equation                                                                     |
|--------------|--------|------------------------------------------------------------------------------|
| position     | k      | (pixel - centre of the square) / (side / 2), cut to +-`MAX_POSITION`; 0 if not observed |
| weight       | w      | floor / sqrt(sigma^2 + floor^2), sigma in the same units; 0 if not observed  |
| visibility   | v      | probability                                                                  |
| depth        | d      | metres behind the pelvis; 0 if not observed                                  |
| depth weight | w_d    | floor_d / sqrt(sigma_d^2 + floor_d^2); 0 if not observed                     |

Weights replace deviations because they are bounded and a point that is not observed needs no flag: its weight is the
limit for an infinite deviation. The box features of CLIFF (`hmr.policy.parametrization.box_features`) follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hmr.types import NUM_POINTS, Box, Detection

__all__ = [
    "CONDITION_SIZE",
    "DEPTH_FLOOR_M",
    "FLOOR",
    "PointEstimates",
    "condition_of",
    "pack_points",
    "points_of",
    "unpack_points",
]

FLOOR = 0.05  # crop units; added to the deviation of every point
DEPTH_FLOOR_M = 0.05
MAX_POSITION, MAX_DEPTH_M = 3.0, 2.0
NUMBERS_PER_POINT = 6
POINTS_SIZE = NUM_POINTS * NUMBERS_PER_POINT
CONDITION_SIZE = POINTS_SIZE + 3


@dataclass(frozen=True)
class PointEstimates:
    """Observed points in crop units: -1 to 1 from border to border of the square about the person's box."""

    position: Float[Tensor, "*batch 41 2"]
    weight: Float[Tensor, "*batch 41"]
    visibility: Float[Tensor, "*batch 41"]
    depth_m: Float[Tensor, "*batch 41"]
    depth_weight: Float[Tensor, "*batch 41"]

    @staticmethod
    def from_sigma(
        position: Float[Tensor, "*batch 41 2"],
        sigma: Float[Tensor, "*batch 41"],
        visibility: Float[Tensor, "*batch 41"],
        depth_m: Float[Tensor, "*batch 41"],
        depth_sigma_m: Float[Tensor, "*batch 41"],
    ) -> PointEstimates:
        """From standard deviations, inf for what is not observed."""
        weight, depth_weight = _weight(sigma, FLOOR), _weight(depth_sigma_m, DEPTH_FLOOR_M)
        observed, depth_observed = weight > 0, depth_weight > 0
        return PointEstimates(
            torch.where(observed[..., None], position, 0.0).clamp(-MAX_POSITION, MAX_POSITION),
            weight,
            torch.where(observed, visibility, 0.0),
            torch.where(depth_observed, depth_m, 0.0).clamp(-MAX_DEPTH_M, MAX_DEPTH_M),
            depth_weight,
        )


def _weight(sigma: Float[Tensor, "*batch 41"], floor: float) -> Float[Tensor, "*batch 41"]:
    return floor / (sigma.square() + floor**2).sqrt()


def points_of(detections: Sequence[Detection], squares: Sequence[Box]) -> PointEstimates:
    """The points of each detection relative to its square."""

    def column(name: str) -> Float[Tensor, "batch 41 *rest"]:
        return torch.stack([getattr(each, name) for each in detections])

    half = torch.tensor([[square.side / 2] for square in squares])
    center = torch.tensor([square.center for square in squares])
    return PointEstimates.from_sigma(
        (column("points_px") - center[:, None]) / half[..., None],
        column("sigma_px") / half,
        column("visibility"),
        column("depth_m"),
        column("depth_sigma_m"),
    )


def pack_points(points: PointEstimates) -> Float[Tensor, "*batch numbers"]:
    rest = (points.weight, points.visibility, points.depth_m, points.depth_weight)
    return torch.cat([points.position, torch.stack(rest, dim=-1)], dim=-1).flatten(-2)


def unpack_points(condition: Float[Tensor, "*batch channels"]) -> PointEstimates:
    """Read the points from the start of a condition."""
    numbers = condition[..., :POINTS_SIZE].unflatten(-1, (NUM_POINTS, NUMBERS_PER_POINT))
    return PointEstimates(numbers[..., :2], *numbers[..., 2:].unbind(-1))


def condition_of(
    points: PointEstimates, box_features: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch channels"]:
    return torch.cat([pack_points(points), box_features], dim=-1)
