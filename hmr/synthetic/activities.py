"""Activities and limb movements that `hmr.synthetic.poses` samples from.

A **movement** is a path of key postures of one limb; a posture is the direction of its upper and of its lower segment,
for the left side (+x outward, +y up, +z forward; chest frame for arms, pelvis frame for legs). An **activity** lists
the movements of its limbs and the angles of trunk and pelvis. Hip and knee over the gait cycle are from Winter, "The
Biomechanics and Motor Control of Human Gait", 1991; the rest was set by inspecting rendered bodies, within the ranges
of `hmr.body.joint_limits`. Nothing is fitted to motion capture.

The weights of `studio` count the 15 scenarios of Human3.6M (Ionescu et al., TPAMI 2014), each as often as another:

| activity | weight | scenarios                                                                                        |
|----------|-------:|--------------------------------------------------------------------------------------------------|
| stand    |      7 | directions, discussion, greeting, taking photos, posing, waiting; half of phoning and of smoking |
| sit      |      4 | sitting, sitting down, eating; the other halves                                                  |
| walk     |      3 | walking, walking together, walking a dog                                                         |
| bend     |      1 | purchases                                                                                        |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["ACTIVITIES", "ARM_MOVEMENTS", "LEG_MOVEMENTS", "Activity", "Posture"]

Number = int | float  # the tests check annotations strictly: 3 is not a float
Posture = tuple[
    Number, Number, Number, Number, Number, Number
]  # upper direction, lower direction; any length


def _leg(hip_flexion: Number, abduction: Number, knee_flexion: Number) -> Posture:
    """Directions from degrees: thigh and shin rotate forward and backward, both tilted outward by the abduction."""
    out = math.sin(math.radians(abduction))
    thigh, shin = math.radians(hip_flexion), math.radians(hip_flexion - knee_flexion)
    return (out, -math.cos(thigh), math.sin(thigh), out, -math.cos(shin), math.sin(shin))


def _gait(hips: Sequence[Number], knees: Sequence[Number]) -> tuple[Posture, ...]:
    """A closed cycle from heel strike to heel strike."""
    cycle = [_leg(hip, 3, knee) for hip, knee in zip(hips, knees, strict=True)]
    return (*cycle, cycle[0])


LEG_MOVEMENTS: Mapping[str, tuple[Posture, ...]] = {
    "stand": (_leg(-5, 2, 0), _leg(3, 6, 5), _leg(15, 10, 20)),
    "walk": _gait((30, 25, 10, -3, -10, 0, 20, 32), (5, 18, 12, 6, 10, 40, 62, 30)),
    "run": _gait((45, 30, 10, -10, -15, 10, 40, 55), (15, 45, 35, 20, 25, 90, 110, 60)),
    "sit": (_leg(75, 5, 30), _leg(85, 8, 80), _leg(95, 20, 105)),
    "squat": (_leg(25, 10, 40), _leg(70, 15, 90), _leg(110, 25, 130)),
    "lunge": (_leg(-20, 5, 15), _leg(-5, 8, 60), _leg(40, 8, 50), _leg(85, 8, 85)),
    "step": (_leg(0, 8, 5), _leg(40, 15, 60), _leg(85, 25, 100), _leg(110, 40, 125)),
    "kick": (_leg(-15, 8, 70), _leg(40, 5, 80), _leg(80, 12, 30), _leg(95, 20, 5)),
    "dangle": (_leg(-10, 3, 5), _leg(10, 5, 30), _leg(40, 8, 80)),
    "tuck": (_leg(20, 5, 40), _leg(60, 8, 90), _leg(110, 12, 130)),
    "kneel": (_leg(-5, 5, 90), _leg(15, 8, 120), _leg(90, 15, 133)),
    "crossed": ((0.6, -0.2, 0.8, -0.7, -0.5, 0.1), (0.8, -0.1, 0.6, -0.8, -0.4, 0.2)),
    "spread": (_leg(0, 15, 5), _leg(15, 45, 20)),
}

ARM_MOVEMENTS: Mapping[str, tuple[Posture, ...]] = {
    "down": ((0.2, -1, -0.1, 0.1, -1, 0.1), (0.35, -1, 0.1, 0.1, -0.8, 0.6)),
    "swing": ((0.2, -0.9, -0.4, 0.15, -1, 0), (0.2, -1, 0, 0.1, -0.9, 0.4), (0.2, -0.9, 0.4, 0, -0.6, 0.8)),
    "run": ((0.25, -0.6, -0.75, 0.1, -0.6, 0.7), (0.25, -1, 0, -0.1, 0, 1), (0.2, -0.9, 0.3, -0.3, 0.6, 0.7)),
    "bent": ((0.3, -1, 0.1, 0, -0.3, 1), (0.3, -0.9, 0.3, -0.3, 0.5, 0.8)),
    "forward": ((0.2, -0.8, 0.5, 0, -0.3, 1), (0.2, -0.3, 0.9, 0, 0, 1), (0.1, 0.1, 1, 0, 0.3, 1)),
    "up": ((0.4, 0.1, 0.8, 0.1, 0.7, 0.6), (0.4, 0.6, 0.5, 0.1, 1, 0.3), (0.3, 1, 0.1, 0.1, 1, 0)),
    "side": ((0.9, -0.7, 0, 0.9, -0.7, 0.3), (1, -0.1, 0.1, 1, 0.1, 0.3), (0.8, 0.6, 0.1, 0.5, 1, 0.2)),
    "akimbo": ((0.6, -0.8, -0.3, -0.4, -0.8, 0.4), (0.8, -0.6, -0.2, -0.7, -0.4, 0.5)),
    "folded": ((0.3, -0.9, 0.3, -0.9, 0, 0.5), (0.3, -0.7, 0.7, -0.9, 0.3, 0.3)),
    "head": ((0.3, -0.7, 0.5, -0.1, 0.9, 0.3), (0.8, 0, 0.4, -0.5, 0.8, 0), (0.6, 0.6, 0.2, -0.7, 0.2, -0.3)),
    "behind": ((0.3, -0.9, -0.4, 0.1, -1, -0.2), (0.4, -0.7, -0.6, 0.2, -1, -0.1)),
    "pull": ((0.4, 0.8, 0.3, 0, 1, 0.2), (0.8, 0.1, 0.5, 0, 1, 0.3), (0.6, -0.7, 0.2, 0.1, 0.9, 0.4)),
    "guard": ((0.3, -0.9, 0.3, -0.2, 0.7, 0.6), (0.2, -0.6, 0.7, -0.1, 0.3, 0.9), (0.1, -0.1, 1, -0.1, 0, 1)),
}  # fmt: skip


@dataclass(frozen=True)
class Activity:
    """Weights of the limbs' movements, and angles of trunk and pelvis in degrees."""

    legs: Mapping[str, Number]
    arms: Mapping[str, Number]
    lab: Number  # weight of the activity in each preset
    wild: Number
    studio: Number = 0
    sides: Literal["same", "opposite", "free"] = "free"  # phase of the right limbs relative to the left
    flexion: tuple[Number, Number] = (8, 8)  # of the whole spine: mean, standard deviation
    lateral: Number = 6  # standard deviations of the spine's other two angles
    rotation: Number = 8
    pitch: tuple[Number, Number] = (0, 6)  # of the pelvis, forward positive: mean, standard deviation
    roll: Number = 4
    grounded: Number = 0.8  # share of poses whose feet are parallel to the ground
    loose: Number = 1.0  # factor of the noise on the limbs

    @property
    def shift(self) -> float:
        """Phase of the right side minus that of the left, in cycles; negative: independent."""
        return {"same": 0.0, "opposite": 0.5, "free": -1.0}[self.sides]


_DAILY = {
    "down": 4, "bent": 2, "forward": 2, "akimbo": 1, "folded": 1, "head": 1, "side": 1, "up": 0.5,
    "behind": 0.5,
}  # fmt: skip
_HOLDS = {"forward": 2, "up": 4, "side": 2, "pull": 2, "head": 0.5, "down": 1}

ACTIVITIES: Mapping[str, Activity] = {
    "stand": Activity({"stand": 5, "spread": 0.5}, _DAILY, lab=3, wild=1.5, studio=7, loose=0.6),
    "walk": Activity(
        {"walk": 1}, {"swing": 4, "down": 1, "bent": 0.5}, lab=4, wild=2, studio=3, sides="opposite",
        flexion=(5, 6), grounded=0.3, loose=0.55,
    ),
    "run": Activity(
        {"run": 1}, {"run": 4, "bent": 1}, lab=1, wild=1.5, sides="opposite",
        flexion=(10, 8), pitch=(8, 6), grounded=0.1, loose=0.7,
    ),
    "sit": Activity(
        {"sit": 6, "crossed": 1}, _DAILY, lab=1.5, wild=2, studio=4, flexion=(18, 14), pitch=(-8, 12), loose=0.8,
    ),
    "squat": Activity(
        {"squat": 3, "kneel": 1}, _DAILY, lab=0.7, wild=1, sides="same",
        flexion=(25, 15), pitch=(15, 15), loose=0.8,
    ),
    "lunge": Activity(
        {"lunge": 1}, _DAILY | {"guard": 1}, lab=1, wild=1, sides="opposite",
        flexion=(12, 12), pitch=(5, 10), loose=0.8,
    ),
    "reach": Activity(
        {"stand": 3, "lunge": 1, "spread": 1}, _HOLDS, lab=1, wild=1.5, lateral=10, rotation=12,
    ),
    "bend": Activity(
        {"stand": 3, "squat": 1}, {"down": 2, "forward": 3, "behind": 0.5}, lab=1, wild=1, studio=1,
        flexion=(55, 18), pitch=(25, 15),
    ),
    "climb": Activity(
        {"step": 4, "dangle": 1, "spread": 0.5}, _HOLDS, lab=0.5, wild=2.5,
        flexion=(15, 15), lateral=10, rotation=12, pitch=(5, 15), roll=10, grounded=0.3,
    ),
    "hang": Activity(
        {"dangle": 3, "tuck": 1}, {"pull": 3, "up": 3}, lab=0.2, wild=1,
        flexion=(8, 12), pitch=(0, 15), roll=8, grounded=0,
    ),
    "fight": Activity(
        {"stand": 1, "lunge": 2, "kick": 2}, {"guard": 4, "bent": 1, "side": 1}, lab=0.7, wild=1,
        flexion=(12, 12), rotation=16, pitch=(0, 12), roll=8, grounded=0.3,
    ),
    "jump": Activity(
        {"tuck": 2, "dangle": 2, "spread": 1}, {"up": 2, "side": 2, "swing": 1, "bent": 1, "behind": 1},
        lab=0.4, wild=1, sides="same", flexion=(8, 15), pitch=(0, 15), roll=8, grounded=0,
    ),
    "lie": Activity(
        {"stand": 2, "tuck": 2, "dangle": 1, "step": 1}, _DAILY, lab=0.3, wild=1,
        flexion=(10, 15), pitch=(-90, 10), roll=8, grounded=0,
    ),
    "any": Activity(
        dict.fromkeys(LEG_MOVEMENTS, 1), dict.fromkeys(ARM_MOVEMENTS, 1), lab=0.4, wild=2,
        flexion=(20, 22), lateral=12, rotation=16, pitch=(5, 20), roll=12, grounded=0.3, loose=1.2,
    ),
}  # fmt: skip
