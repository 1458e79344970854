"""Common ground: whether the people stand on one plane, in standard deviations.

The direction of gravity is not known: the camera may be tilted, and people lean. It is estimated from the camera's
own vertical (`CAMERA_SD`) and from every standing person (`BALANCE_SD`): the mean of the direction from the feet to the
centre of mass and that of the trunk. With h the height of each person's lowest point along it, and X their horizontal
positions, the floor is a plane with unknown level and a tilt that is uncertain by the deviation s of that direction:

    h ~ N(level, C),    C = diag(own^2) + s^2 X X^T

Each person is compared with the prediction from all others (the leave-one-out residual of that Gaussian, Rasmussen and
Williams, "Gaussian Processes for Machine Learning", 2006, section 5.4.2). The value is the root mean square of the
residuals, each divided by its deviation: 1 is what is expected. So a large gap between people far apart counts less
than one between neighbours, and with three people and more the plane is determined better than by their posture.

`own` is `STANDING_M`, and larger for those who do not stand (they may sit or lie on something) and for those whose
lowest point is outside the image, where a body is a guess. Left out: stairs and jumps, which are faults here, and
slopes beyond the tilt's deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from agent.arrangement.types import ArrangementEvidence, PlacedPeople
from agent.tools.ground_contact import SEAT_SHARE, STRIDE, center_of_mass
from hmr.types import JOINT_NAMES

__all__ = ["CommonGround"]

CAMERA_SD = math.radians(15)  # of the camera's vertical about gravity
BALANCE_SD = math.radians(12)  # of the direction of a standing person
STANDING_M, OTHER_M = 0.06, 0.3  # deviation of a person's lowest point from the floor
LEVEL_M = 100.0  # deviation of the floor's level: it is unknown
ROUNDS = 2  # of estimating gravity, which depends on who stands, which depends on gravity
FAULT_SD = 2.5
_NECK = JOINT_NAMES.index("neck")
_FEET = [JOINT_NAMES.index(f"{side}_{name}") for name in ("ankle", "foot") for side in ("left", "right")]
_LEGS = [
    [JOINT_NAMES.index(f"{side}_{name}") for name in ("hip", "knee", "ankle")] for side in ("left", "right")
]


@dataclass(frozen=True)
class _Feet:
    """The lowest point of each person, over an unknown level, and what is known of the floor."""

    height_m: Float[Tensor, "people"]
    point_m: Float[Tensor, "people 3"]
    own_m: Float[Tensor, "people"]  # deviation from the floor
    up: Float[Tensor, "3"]
    tilt_sd: float


class CommonGround:
    """Root mean square distance of each person from the floor of the others, in standard deviations."""

    name = "common_ground"

    def measure(self, people: PlacedPeople) -> ArrangementEvidence:
        gap_m, sd_m = _gaps(_feet(people))
        size = (gap_m / sd_m).abs()
        # of two people both are as far from the other's floor: the upper one is named
        order = sorted(range(len(people)), key=lambda row: (-round(float(size[row]), 3), -float(gap_m[row])))
        worst = order[0]
        return ArrangementEvidence(
            tool=self.name,
            metric="common_ground_sd",
            unit="sd",
            value=float(size.square().mean().sqrt()),
            people=tuple(row for row in order if size[row] > FAULT_SD),
            sentence=_sentence(worst, float(gap_m[worst]), float(sd_m[worst]), len(people)),
        )


def _feet(people: PlacedPeople) -> _Feet:
    skin_m, joints_m = people.posed.vertices_cam_m[:, ::STRIDE], people.posed.joints_cam_m
    up, tilt_sd, standing = _gravity(skin_m, joints_m)
    height_m, lowest = (skin_m @ up).min(dim=1)
    point_m = skin_m[torch.arange(len(people)), lowest]
    own_m = torch.where(standing & _in_image(people, point_m), STANDING_M, OTHER_M)
    return _Feet(height_m, point_m, own_m, up, tilt_sd)


def _gaps(feet: _Feet) -> tuple[Float[Tensor, "people"], Float[Tensor, "people"]]:
    """Height of each person over the floor of the others, and its deviation.

    While more than two are left, the one that is farthest off is taken from the floor, so that a jump is the fault of
    the one who jumps.
    """
    on = list(range(len(feet.height_m)))
    gap_m, sd_m = _leave_one_out(feet, on)
    while len(on) > 2 and bool(((gap_m / sd_m).abs() > FAULT_SD).any()):
        del on[int((gap_m / sd_m).abs().argmax())]
        gap_m, sd_m = _leave_one_out(feet, on)
    gaps_m, sds_m = torch.zeros_like(feet.height_m), torch.zeros_like(feet.height_m)
    gaps_m[on], sds_m[on] = gap_m, sd_m
    for row in set(range(len(gaps_m))) - set(on):
        gap_m, sd_m = _leave_one_out(feet, [*on, row])
        gaps_m[row], sds_m[row] = gap_m[-1], sd_m[-1]
    return gaps_m, sds_m


def _gravity(
    skin_m: Float[Tensor, "people skin 3"], joints_m: Float[Tensor, "people 24 3"]
) -> tuple[Float[Tensor, "3"], float, Bool[Tensor, "people"]]:
    """The direction that points up, its deviation about each horizontal axis, and who stands."""
    level = skin_m.new_tensor([0.0, -1.0, 0.0])
    up, precision = level, CAMERA_SD**-2
    body_up = _upright(joints_m)
    standing = torch.zeros(len(skin_m), dtype=torch.bool)
    for _ in range(ROUNDS):
        standing = _stands(skin_m, joints_m, up)
        total = CAMERA_SD**-2 * level + BALANCE_SD**-2 * body_up[standing].sum(dim=0)
        up = normalize(total, dim=-1)
        precision = CAMERA_SD**-2 + BALANCE_SD**-2 * int(standing.sum())
    return up, precision**-0.5, standing


def _upright(joints_m: Float[Tensor, "people 24 3"]) -> Float[Tensor, "people 3"]:
    """The direction in which each body stands."""
    over_feet = center_of_mass(joints_m) - joints_m[:, _FEET].mean(dim=1)
    trunk = joints_m[:, _NECK] - joints_m[:, 0]
    return normalize(normalize(over_feet, dim=-1) + normalize(trunk, dim=-1), dim=-1)


def _stands(
    skin_m: Float[Tensor, "people skin 3"], joints_m: Float[Tensor, "people 24 3"], up: Float[Tensor, "3"]
) -> Bool[Tensor, "people"]:
    """Whether the pelvis is nearly a leg's length over the lowest point."""
    hip, knee, ankle = joints_m[:, _LEGS].unbind(dim=2)
    leg_m = ((hip - knee).norm(dim=-1) + (knee - ankle).norm(dim=-1)).mean(dim=1)
    return joints_m[:, 0] @ up - (skin_m @ up).amin(dim=1) > SEAT_SHARE * leg_m


def _in_image(people: PlacedPeople, points_m: Float[Tensor, "people 3"]) -> Bool[Tensor, "people"]:
    x, y = people.camera.project(points_m).unbind(dim=-1)
    return (x > 0) & (x < people.camera.width) & (y > 0) & (y < people.camera.height)


def _leave_one_out(feet: _Feet, rows: list[int]) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows"]]:
    """Height of each of `rows` over the floor that the others of them predict, and its deviation."""
    point_m, own_m, up = feet.point_m[rows].double(), feet.own_m[rows].double(), feet.up.double()
    centered = point_m - point_m.mean(dim=0)
    across = centered - (centered @ up)[:, None] * up
    covariance = torch.diag(own_m**2) + feet.tilt_sd**2 * across @ across.T + LEVEL_M**2
    precision = torch.linalg.inv(covariance)
    diagonal = precision.diagonal()
    height_m = feet.height_m[rows].double()
    residual = (precision @ (height_m - height_m.mean())) / diagonal
    return residual.to(feet.height_m), (1 / diagonal.sqrt()).to(feet.height_m)


def _sentence(row: int, gap_m: float, sd_m: float, count: int) -> str:
    if abs(gap_m) <= FAULT_SD * sd_m:
        return "The people stand on one floor."
    side = "above" if gap_m > 0 else "below"
    others = f"{{{1 - row}}}" if count == 2 else "the others"
    gap_mm, sd_mm = abs(1000 * gap_m), 1000 * sd_m
    return f"{{{row}}} is {gap_mm:.0f} mm {side} the floor of {others} (uncertain by {sd_mm:.0f} mm)."
