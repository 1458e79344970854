"""Human poses without a data set: activities built from limb movements, all within the joint limits.

A phase selects a point of each limb's movement (`hmr.synthetic.activities`) and noise is added. `hmr.synthetic.limbs`
moves the limbs out of the body and converts them to anatomical angles, which are clamped to `hmr.body.joint_limits`.
Some activities couple the phases of the two sides (walking: opposite, each arm with the other leg). The presets `lab`,
`wild` and `studio` have different weights of the activities, and `wild` has more noise.

Left out: fingers (SMPL's hand joints stay at rest), time, and exact contact: feet of grounded activities are rotated
parallel to the ground, but not placed on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from hmr.body.joint_limits import from_anatomical, limits_rad
from hmr.synthetic.activities import ACTIVITIES, ARM_MOVEMENTS, LEG_MOVEMENTS, Posture
from hmr.synthetic.limbs import arm_angles, clear_trunk, leg_angles, part_legs
from hmr.types import JOINT_NAMES

__all__ = ["PoseBatch", "Preset", "remove_heading", "sample_poses"]

Preset = Literal["lab", "wild", "studio"]

_RAD = math.pi / 180
_KEYS = 9  # key postures of every movement after resampling; Winter's gait cycle has 8 and closes
_JOINT = {name: index - 1 for index, name in enumerate(JOINT_NAMES)}


@dataclass(frozen=True)
class PoseBatch:
    """Poses of bodies in a y-up world, facing +z; rotate about y for another heading."""

    body_pose: Float[Tensor, "batch 23 3"]  # axis-angle
    orient_up: Float[Tensor, "batch 3"]  # axis-angle of the pelvis in the y-up world; 0 is upright
    activity: Int[Tensor, "batch"]  # index into tuple(ACTIVITIES); -1 for recorded motion

    def __len__(self) -> int:
        return self.body_pose.shape[0]


# Standard deviation of the noise on directions (roughly radians); `_LEG_SPLAY` scales the sideways noise of legs.
_LOOSENESS: Mapping[Preset, float] = {"lab": 0.2, "wild": 0.28, "studio": 0.2}
_LEG_SPLAY = 0.6


def sample_poses(count: int, generator: torch.Generator, preset: Preset = "lab") -> PoseBatch:
    """Independent poses within the joint limits; `preset` gives the proportions of the activities.

    The same generator state gives the same poses.
    """
    weights = torch.tensor([float(getattr(activity, preset)) for activity in ACTIVITIES.values()])
    activity = torch.multinomial(weights, count, replacement=True, generator=generator)
    factor = torch.exp(0.4 * torch.randn(count, generator=generator))
    looseness = _LOOSENESS[preset] * _column("loose", activity) * factor
    pitch = _normal("pitch", activity, generator)
    roll = _column("roll", activity) * torch.randn(count, generator=generator) * _RAD
    angles = torch.zeros(count, 23, 3)
    _pose_trunk(angles, activity, generator)
    leg_phase, arm_phase = _phases(activity, generator)
    legs = _directions("legs", activity, leg_phase, looseness, generator)
    _pose_legs(angles, activity, part_legs(legs), pitch, generator)
    arms = _directions("arms", activity, arm_phase, looseness, generator)
    _pose_arms(angles, clear_trunk(arms), generator)
    body_pose = from_anatomical(angles.clamp(*limits_rad()))
    return PoseBatch(body_pose, _orient(activity, pitch, roll, generator), activity)


def remove_heading(orient_world: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """A rotation in a y-up world without its twist about the y axis, which is removed last."""
    _, y, _, w = roma.rotvec_to_unitquat(orient_world).unbind(-1)
    heading = 2 * torch.atan2(y, w)
    upright = torch.stack([torch.zeros_like(heading), -heading, torch.zeros_like(heading)], dim=-1)
    return roma.rotvec_composition([upright, orient_world])


def _column(field: str, activity: Int[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    return torch.tensor([float(getattr(row, field)) for row in ACTIVITIES.values()])[activity]


def _normal(field: str, activity: Int[Tensor, "batch"], generator: torch.Generator) -> Float[Tensor, "batch"]:
    """Radians drawn from the activity's (mean, standard deviation) in degrees."""
    table = torch.tensor([getattr(row, field) for row in ACTIVITIES.values()], dtype=torch.float32)
    mean, sd = table[activity].T
    return (mean + sd * torch.randn(len(activity), generator=generator)) * _RAD


def _orient(
    activity: Int[Tensor, "batch"],
    pitch: Float[Tensor, "batch"],
    roll: Float[Tensor, "batch"],
    generator: torch.Generator,
) -> Float[Tensor, "batch 3"]:
    """Pitch about x, then roll about z; a lying body is first rotated about its long axis."""
    lying = activity == list(ACTIVITIES).index("lie")
    turn = torch.rand(len(activity), generator=generator) * 2 * math.pi * lying
    zero = torch.zeros_like(pitch)
    parts = [(zero, zero, roll), (pitch, zero, zero), (zero, turn, zero)]
    return roma.rotvec_composition([torch.stack(part, dim=-1) for part in parts])


def _pose_trunk(
    angles: Float[Tensor, "batch 23 3"], activity: Int[Tensor, "batch"], generator: torch.Generator
) -> None:
    """Distribute the spine's total bend over its joints, with noise; rotate neck and head."""
    count = len(activity)
    noise = torch.randn(count, 5, 3, generator=generator) * _RAD
    total = torch.stack(
        [
            _normal("flexion", activity, generator),
            _column("rotation", activity) * torch.randn(count, generator=generator) * _RAD,
            _column("lateral", activity) * torch.randn(count, generator=generator) * _RAD,
        ],
        dim=-1,
    )
    share = torch.tensor([[0.45, 0.2, 0.3], [0.3, 0.35, 0.35], [0.25, 0.45, 0.35]])
    spine = [_JOINT["spine1"], _JOINT["spine2"], _JOINT["spine3"]]
    angles[:, spine] = total[:, None] * share + 4 * noise[:, :3]
    # the gaze stays near the horizon: the neck compensates part of the spine's flexion
    gaze = torch.randn(count, 1, 3, generator=generator) * _RAD * torch.tensor([10.0, 18.0, 6.0])
    gaze[:, 0, 0] -= 0.3 * total[:, 0]
    angles[:, [_JOINT["neck"], _JOINT["head"]]] = gaze * 0.6 + 6 * noise[:, 3:]


def _table(movements: Mapping[str, tuple[Posture, ...]]) -> Float[Tensor, "movements keys 6"]:
    """The postures of every movement, resampled to the same number of keys."""
    rows = [torch.tensor(postures, dtype=torch.float32).T[None] for postures in movements.values()]
    return torch.cat([interpolate(row, _KEYS, mode="linear", align_corners=True) for row in rows]).mT


_LEGS, _ARMS = _table(LEG_MOVEMENTS), _table(ARM_MOVEMENTS)


def _phases(
    activity: Int[Tensor, "batch"], generator: torch.Generator
) -> tuple[Float[Tensor, "batch 2"], Float[Tensor, "batch 2"]]:
    """Phases of (left, right) legs and arms. With opposite sides, each arm moves with the other leg."""
    sides = _column("shift", activity)
    legs, arms = torch.rand(2, len(activity), 2, generator=generator)
    legs[:, 1] = torch.where(sides < 0, legs[:, 1], (legs[:, 0] + sides) % 1)
    arms[:, 1] = torch.where(sides == 0, arms[:, 0], arms[:, 1])
    swung = 0.5 - 0.5 * torch.cos(2 * math.pi * legs)
    return legs, torch.where(sides[:, None] > 0, swung, arms)


def _directions(
    limb: Literal["legs", "arms"],
    activity: Int[Tensor, "batch"],
    phase: Float[Tensor, "batch 2"],
    looseness: Float[Tensor, "batch"],
    generator: torch.Generator,
) -> Float[Tensor, "batch sides segments 3"]:
    """Unit directions of both segments of both limbs, both sides in the left side's convention."""
    movements, table = (LEG_MOVEMENTS, _LEGS) if limb == "legs" else (ARM_MOVEMENTS, _ARMS)
    rows = [[getattr(row, limb).get(name, 0.0) for name in movements] for row in ACTIVITIES.values()]
    movement = torch.multinomial(torch.tensor(rows)[activity], 2, replacement=True, generator=generator)
    alike = torch.rand(len(activity), generator=generator) < 0.75
    movement[:, 1] = torch.where(alike, movement[:, 0], movement[:, 1])
    position = phase * (_KEYS - 1)
    key = position.long().clamp_max(_KEYS - 2)
    posture = torch.lerp(table[movement, key], table[movement, key + 1], (position - key)[..., None])
    directions = normalize(posture.unflatten(-1, (2, 3)), dim=-1)
    noise = torch.randn(directions.shape, generator=generator) * looseness[:, None, None, None]
    if limb == "legs":
        noise[..., 0] *= _LEG_SPLAY
    return normalize(directions + noise, dim=-1)


def _pose_legs(
    angles: Float[Tensor, "batch 23 3"],
    activity: Int[Tensor, "batch"],
    legs: Float[Tensor, "batch sides segments 3"],
    pitch: Float[Tensor, "batch"],
    generator: torch.Generator,
) -> None:
    """Hips and knees follow the directions; feet are parallel to the ground, or free and slightly pointed."""
    noise = torch.randn(*legs.shape[:2], 4, generator=generator) * _RAD
    hip, knee = leg_angles(legs, 6 * _RAD + 8 * noise[..., 0])
    flat = torch.atan2(legs[:, :, 1, 2], -legs[:, :, 1, 1]) - pitch[:, None]
    grounded = torch.rand(len(activity), generator=generator) < _column("grounded", activity)
    ankle = torch.where(grounded[:, None], flat + 5 * noise[..., 1], 15 * _RAD + 15 * noise[..., 1])
    angles[:, _sides("hip")] = hip
    angles[:, _sides("knee"), 0] = knee
    angles[:, _sides("ankle")] = torch.cat([ankle[..., None], 6 * noise[..., 2:]], dim=-1)


def _pose_arms(
    angles: Float[Tensor, "batch 23 3"],
    arms: Float[Tensor, "batch sides segments 3"],
    generator: torch.Generator,
) -> None:
    """Collars, shoulders and elbows follow the directions; forearm and hand rotate independently."""
    noise = torch.randn(*arms.shape[:2], 4, generator=generator) * _RAD
    collar_share, hinge = torch.rand(2, *arms.shape[:2], generator=generator)
    collar, shoulder, elbow = arm_angles(arms, collar_share, 10 * noise[..., 0], 30 * _RAD * hinge)
    elbow[..., 0] = 15 * noise[..., 1]
    angles[:, _sides("collar")] = collar
    angles[:, _sides("shoulder")] = shoulder
    angles[:, _sides("elbow")] = elbow
    angles[:, _sides("wrist")] = noise[..., 1:] * torch.tensor([20.0, 6.0, 15.0])


def _sides(joint: str) -> list[int]:
    return [_JOINT[f"left_{joint}"], _JOINT[f"right_{joint}"]]
