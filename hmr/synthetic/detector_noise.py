"""Simulated detectors: from true points to the points that a detector reports, with its typical errors.

| error              | model                                                                                        |
|--------------------|----------------------------------------------------------------------------------------------|
| deviation          | log-normal: a factor per person, per limb and per point, times the point's own               |
| correlation        | along the kinematic tree, exp(-edges / `CORRELATION_EDGES`)                                  |
| definition         | a detector's joint is elsewhere on the body than SMPL's: a 3D offset per person and point    |
| left and right     | legs or arms exchanged, or both sides averaged, as heatmaps with two maxima are              |
| a neighbour's limb | one limb elsewhere, reported with confidence                                                 |
| hidden points      | reported with a larger deviation, or not at all                                              |
| calibration        | the reported deviation is the true one times a log-normal factor                             |

Values of `embedded` were read from 1,000 scenes each of `lab` and `wild` (error over reported deviation 1.0 to 1.2,
correlation of neighbouring joints .6 to .7, of both ankles -.4 to -.8: exchanged legs); those of detectors trained on
photographs from the papers' keypoint errors (COCO's OKS deviations) and are wider than one detector's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hmr.body.surface_points import POINT_JOINTS
from hmr.types import (
    JOINT_NAMES,
    NUM_JOINTS,
    NUM_POINTS,
    OTHER_POINT,
    PARENTS,
    POINT_NAMES,
    SURFACE_POINT_NAMES,
)

__all__ = ["PROFILES", "DetectorProfile", "ReportedPoints", "observe"]

CORRELATION_EDGES = 4.0
_LIMB_JOINTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "eye", "ear")
_COCO = ("nose", *(f"{side}_{joint}" for joint in _LIMB_JOINTS for side in ("left", "right")))
_FEET = tuple(f"{side}_{point}" for point in ("heel", "big_toe", "small_toe") for side in ("left", "right"))
_KNUCKLES = tuple(
    f"{side}_{finger}_knuckle" for finger in ("index", "pinky", "thumb") for side in ("left", "right")
)
# Deviation of each kind of point relative to the trunk's, from the embedded encoder's scenes.
_RELATIVE = {
    "hip": 1.5, "shoulder": 1.5, "knee": 2.0, "elbow": 2.6, "ankle": 2.2, "wrist": 3.2, "foot": 2.7, "hand": 3.8,
    "heel": 2.3, "big_toe": 2.8, "small_toe": 2.8, "index_knuckle": 3.8, "pinky_knuckle": 3.8,
    "thumb_knuckle": 3.6,
}  # fmt: skip


@dataclass(frozen=True)
class DetectorProfile:
    """Deviations are in crop units (a person's box is 1.7 wide), offsets and depths in metres."""

    share: float  # of the simulated people, relative to the other shares
    points: tuple[str, ...]
    sigma: float  # median deviation of a visible point of the trunk
    person_spread: float  # standard deviation of the logarithm, over persons
    hidden_factor: float  # of the deviation of hidden points
    reports_hidden: float  # probability that a hidden point is reported
    offset_m: float  # of joints; hips have twice as much
    depth: float  # probability that depths are reported
    depth_sigma_m: float  # median posterior deviation at the end of a limb
    exchanged: float  # probability of exchanged (or averaged) legs, and of arms
    noticed: float  # reported deviation of exchanged points, as a part of their error
    neighbour: float  # probability of a limb that is a neighbour's


PROFILES: dict[str, DetectorProfile] = {
    "embedded": DetectorProfile(
        0.25, JOINT_NAMES, 0.019, 0.55, 2.0, 1.0, 0.0, 0.95, 0.16, exchanged=0.14, noticed=0.9, neighbour=0.02
    ),
    "blazepose": DetectorProfile(
        0.3, (*_COCO, *_KNUCKLES, *_FEET[:4]), 0.018, 0.5, 2.5, 0.9, 0.025, 0.6, 0.18,
        exchanged=0.05, noticed=0.5, neighbour=0.04,
    ),
    "coco": DetectorProfile(
        0.1, _COCO, 0.016, 0.5, 2.5, 0.6, 0.025, 0.0, 1.0,
        exchanged=0.04, noticed=0.4, neighbour=0.04,
    ),
    "wholebody": DetectorProfile(
        0.08, (*_COCO, *_FEET), 0.016, 0.5, 2.5, 0.6, 0.02, 0.0, 1.0, exchanged=0.04, noticed=0.4, neighbour=0.04
    ),
    "precise": DetectorProfile(
        0.07, POINT_NAMES, 0.003, 0.5, 2.0, 0.3, 0.0, 0.5, 0.05, exchanged=0.0, noticed=1.0, neighbour=0.0
    ),
}  # fmt: skip

LIMBS = {
    "left_leg": ("left_hip", "left_knee", "left_ankle", "left_foot"),
    "right_leg": ("right_hip", "right_knee", "right_ankle", "right_foot"),
    "left_arm": ("left_collar", "left_shoulder", "left_elbow", "left_wrist", "left_hand"),
    "right_arm": ("right_collar", "right_shoulder", "right_elbow", "right_wrist", "right_hand"),
}


def _limb_of_points() -> Int[Tensor, "41"]:
    """Index into LIMBS of each point; the number of limbs for the trunk."""
    joints = {JOINT_NAMES.index(name): index for index, names in enumerate(LIMBS.values()) for name in names}
    return torch.tensor([joints.get(joint, len(LIMBS)) for joint in POINT_JOINTS])


def _relative_sigma() -> Float[Tensor, "41"]:
    kinds = [name.removeprefix("left_").removeprefix("right_") for name in POINT_NAMES]
    return torch.tensor([_RELATIVE.get(kind, 1.0) for kind in kinds])


def _correlation_factor() -> Float[Tensor, "41 41"]:
    """Cholesky factor of exp(-edges / CORRELATION_EDGES) between points of the kinematic tree."""
    parent = [*PARENTS, *POINT_JOINTS[NUM_JOINTS:]]
    chains = []
    for point in range(NUM_POINTS):
        chain = [point]
        while parent[chain[-1]] >= 0:
            chain.append(parent[chain[-1]])
        chains.append(chain)

    def edges(a: int, b: int) -> int:
        common = next(joint for joint in chains[a] if joint in chains[b])
        return chains[a].index(common) + chains[b].index(common)

    distance = torch.tensor([[edges(a, b) for b in range(NUM_POINTS)] for a in range(NUM_POINTS)])
    return torch.linalg.cholesky(torch.exp(-distance.double() / CORRELATION_EDGES)).float()


# Growth of a limb's depth error, and of its prior deviation, from its root to its end.
_GROWTH = {
    "pelvis": 0.05, "hip": 0.2, "knee": 0.65, "ankle": 0.9, "foot": 1.0, "heel": 0.95, "big_toe": 1.05,
    "small_toe": 1.05, "spine1": 0.2, "spine2": 0.35, "spine3": 0.45, "neck": 0.75, "head": 0.9, "nose": 1.0,
    "eye": 1.0, "ear": 0.95,
    "collar": 0.6, "shoulder": 0.7, "elbow": 0.9, "wrist": 1.05, "hand": 1.1,
}  # fmt: skip
PRIOR_DEPTH_M = 0.34  # standard deviation of the depth of a limb's end behind the pelvis


def _profile() -> Float[Tensor, "41"]:
    kinds = [name.removeprefix("left_").removeprefix("right_") for name in POINT_NAMES]
    return torch.tensor([_GROWTH.get(kind, 1.1) for kind in kinds])


PROFILE = _profile()
LIMB_OF, RELATIVE, FACTOR = _limb_of_points(), _relative_sigma(), _correlation_factor()
_OFFSET_SCALE = torch.tensor(
    [
        2.0 if name.endswith("hip") else float(name not in SURFACE_POINT_NAMES) * 0.8 + 0.2
        for name in POINT_NAMES
    ]
)


class ReportedPoints(NamedTuple):
    """Deviations are inf for what is not reported; its position, depth and visibility mean nothing."""

    position: Float[Tensor, "batch 41 2"]  # crop units
    sigma: Float[Tensor, "batch 41"]
    visibility: Float[Tensor, "batch 41"]
    depth_m: Float[Tensor, "batch 41"]  # behind the pelvis
    depth_sigma_m: Float[Tensor, "batch 41"]


@dataclass(frozen=True)
class _Table:
    """The profiles as one row per person."""

    reported: Bool[Tensor, "batch 41"]
    values: dict[str, Float[Tensor, "batch 1"]]

    def __getattr__(self, name: str) -> Float[Tensor, "batch 1"]:
        return self.values[name]


_FIELDS = (
    "sigma", "person_spread", "hidden_factor", "reports_hidden", "offset_m", "depth", "depth_sigma_m", "exchanged",
    "noticed", "neighbour",
)  # fmt: skip


def _draw_profiles(count: int, names: Sequence[str], generator: torch.Generator) -> _Table:
    profiles = [PROFILES[name] for name in names]
    shares = torch.tensor([profile.share for profile in profiles])
    row = torch.multinomial(shares, count, replacement=True, generator=generator)
    reported = torch.tensor([[name in profile.points for name in POINT_NAMES] for profile in profiles])
    columns = {
        field: torch.tensor([float(getattr(profile, field)) for profile in profiles])[row][:, None]
        for field in _FIELDS
    }
    return _Table(reported[row], columns)


def definition_offsets_m(
    count: int, table: _Table, generator: torch.Generator
) -> Float[Tensor, "batch 41 3"]:
    """Offsets of a detector's points from the body's, along the camera's axes."""
    scale = table.offset_m[..., None] * _OFFSET_SCALE[:, None]
    return scale * torch.randn(count, NUM_POINTS, 3, generator=generator)


def observe(
    points: Float[Tensor, "batch 41 2"],
    depth_m: Float[Tensor, "batch 41"],
    visible: Bool[Tensor, "batch 41"],
    units_per_m: Float[Tensor, "batch"],
    generator: torch.Generator,
    names: Sequence[str] = tuple(PROFILES),
) -> ReportedPoints:
    """What a detector reports of each person; every row draws one of the profiles `names`.

    points: true positions in crop units; depth_m: behind the pelvis; visible: inside the image and not occluded;
    units_per_m: crop units of a metre at the person's distance.
    """
    count = len(points)
    table = _draw_profiles(count, names, generator)
    offsets_m = definition_offsets_m(count, table, generator)
    points = points + offsets_m[..., :2] * units_per_m[:, None, None]
    points, confusion = _exchange(points, table, generator)
    sigma = _deviations(visible, table, generator)
    errors = FACTOR @ torch.randn(count, NUM_POINTS, 2, generator=generator)
    sudden = 1 + 3 * (_uniform(count, NUM_POINTS, generator) < 0.02).float()
    observed = points + errors * (sigma * sudden)[..., None]
    observed, taken = _neighbours_limb(observed, table, generator)
    reported = table.reported & (visible | (_uniform(count, NUM_POINTS, generator) < table.reports_hidden))
    stated = (sigma.square() + confusion.square()).sqrt()
    stated = stated * torch.exp(0.25 * torch.randn(count, NUM_POINTS, generator=generator))
    depths = _depths(depth_m + offsets_m[..., 2], sigma, table, generator)
    has_depth = reported & (_uniform(count, 1, generator) < table.depth)
    return ReportedPoints(
        observed,
        torch.where(reported, stated, torch.inf),
        _visibility(visible | taken, generator),
        depths[0],
        torch.where(has_depth, depths[1], torch.inf),
    )


def _uniform(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    return torch.rand(rows, columns, generator=generator)


def _deviations(
    visible: Bool[Tensor, "batch 41"], table: _Table, generator: torch.Generator
) -> Float[Tensor, "batch 41"]:
    count = len(visible)
    person = torch.exp(table.person_spread * torch.randn(count, 1, generator=generator))
    limb = torch.exp(0.35 * torch.randn(count, len(LIMBS) + 1, generator=generator))[:, LIMB_OF]
    point = torch.exp(0.25 * torch.randn(count, NUM_POINTS, generator=generator))
    hidden = torch.where(visible, 1.0, table.hidden_factor)
    return (table.sigma * person * limb * point * hidden * RELATIVE).clamp_max(0.6)


def _exchange(
    points: Float[Tensor, "batch 41 2"], table: _Table, generator: torch.Generator
) -> tuple[Float[Tensor, "batch 41 2"], Float[Tensor, "batch 41"]]:
    """Legs or arms of some people exchanged or averaged; the second value is the deviation that the detector adds."""
    count, other = len(points), points[:, OTHER_POINT]
    pairs = LIMB_OF // 2  # 0 legs, 1 arms, 2 trunk
    happens = torch.cat([_uniform(count, 2, generator) < table.exchanged, torch.zeros(count, 1) > 0], dim=1)
    share = torch.where(_uniform(count, 3, generator) < 0.25, 1.0, _uniform(count, 3, generator)) * happens
    share = share[:, pairs]
    distance = (other - points).norm(dim=-1)
    noticed = distance * share * table.noticed * (0.5 + _uniform(count, 1, generator))
    return points + share[..., None] * (other - points), noticed


def _neighbours_limb(
    points: Float[Tensor, "batch 41 2"], table: _Table, generator: torch.Generator
) -> tuple[Float[Tensor, "batch 41 2"], Bool[Tensor, "batch 41"]]:
    count = len(points)
    limb = torch.randint(len(LIMBS), (count, 1), generator=generator)
    taken = (limb == LIMB_OF) & (_uniform(count, 1, generator) < table.neighbour)
    shift = 0.5 * torch.randn(count, 1, 2, generator=generator)
    return torch.where(taken[..., None], points + shift, points), taken


def _depths(
    depth_m: Float[Tensor, "batch 41"],
    sigma: Float[Tensor, "batch 41"],
    table: _Table,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "batch 41"], Float[Tensor, "batch 41"]]:
    """Depths as a network that minimises a squared error reports them: means of a posterior, and its deviations.

    One error per limb, growing towards its end: 94 % of the variance of the embedded encoder's depth errors is in five
    components. With the prior N(0, P) of a limb's depth and the posterior deviation s, the network in effect saw
    y = x + n with var n = s^2 / k, k = 1 - s^2 / P, and reports k y: it shrinks to zero what it does not know.
    """
    count = len(depth_m)
    ratio = (sigma / (table.sigma * RELATIVE)).clamp(0.3, 4.0)
    limb = torch.exp(0.5 * torch.randn(count, len(LIMBS) + 1, generator=generator))
    uncertain = torch.stack(
        [ratio[:, index == LIMB_OF].mean(dim=1) for index in range(len(LIMBS) + 1)], dim=1
    )
    posterior = (table.depth_sigma_m * limb * uncertain.sqrt()).clamp_max(0.95 * PRIOR_DEPTH_M)
    kept = 1 - (posterior / PRIOR_DEPTH_M).square()
    noise = torch.randn(count, len(LIMBS) + 1, generator=generator) * posterior / kept.sqrt()
    alone = 0.02 * torch.randn(count, NUM_POINTS, generator=generator)
    reported = kept[:, LIMB_OF] * (depth_m + PROFILE * noise[:, LIMB_OF]) + alone
    stated = ((PROFILE * posterior[:, LIMB_OF]).square() + 0.02**2).sqrt()
    return reported, stated * torch.exp(0.2 * torch.randn(count, NUM_POINTS, generator=generator))


def _visibility(visible: Bool[Tensor, "batch 41"], generator: torch.Generator) -> Float[Tensor, "batch 41"]:
    noise = torch.randn(visible.shape, generator=generator)
    return torch.where(visible, 3.2 + 1.2 * noise, -0.6 + 1.8 * noise).sigmoid()
