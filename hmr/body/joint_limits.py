"""The range of motion of SMPL's 23 body joints: a table of limits, and how far a pose exceeds them.

A joint's rotation is decomposed as `swing * twist` (Baerlocher & Boulic 2001, "Parametrization and range of motion
of the ball-and-socket joint"): the twist is about the bone; the swing, whose axis is perpendicular to the bone,
determines the bone's direction. The axis-angle components of the swing and the angle of the twist are the joint's
**anatomical angles**, three numbers along SMPL's axes (left = +x, up = +y, forward = +z; T-pose, arms along
+-x, legs along -y). The right limbs are mirrored first, so every row of the table is for the left side:

    joint            x                            y                              z
    spine, neck      flexion +                    axial rotation (twist)         lateral bending
    hip, knee        hip flexion -, knee +        external rotation + (twist)    abduction +
    ankle, foot      plantarflexion +             toes outward +                 eversion + (twist)
    collar           axial rotation (twist)       protraction -                  elevation +
    shoulder         internal rotation + (twist)  horizontal adduction -         elevation +
    elbow            pronation + (twist)          flexion -                      flexion with arm turned out +
    wrist            pronation + (twist)          ulnar +                        flexion -

Sources of the rows, and how they were checked against public text (the books were not available):

    NW    Norkin & White, "Measurement of Joint Motion", 5th ed. 2016; shoulder, elbow and wrist are in its appendix
          as read, which reprints the norms of AAOS
    AAOS  American Academy of Orthopaedic Surgeons, "Joint Motion", 1965, as others quote it
    M     "Normal values for range of motion of joints", The Merck Manual, 2013; read
    W     Wilson & Furukawa 2014, Am. Fam. Physician 89:27, as others quote it
    R     Rettig et al. 2015, BMC Musculoskelet. Disord. 16, the clavicle while the arms are raised; abstract read
    B     Bennell et al. 1998, Aust. J. Physiother. 44:175, the lunge with the heel down; abstract read
    K     Kapandji, "The Physiology of the Joints", 6th ed. 2007

A number without a mark was found with its source; `~`: found in texts that name no source or another one; `?`: not
found. If a norm covers several SMPL joints (spine, neck, forearm), each joint may use most of it, because rigs
distribute it differently; the sum is not bounded.

Left out: limits that depend on the parent's pose (Akhter & Black, CVPR 2015; learned from stretching athletes, for
academic use only, so neither their data nor their code is used here). A box of angles includes corners that no body
reaches, but it rarely rejects a possible pose: of 7,789 frames of the CMU motion capture database, 95 % or more are
inside at every joint except the toes (docs/results/rendering.md).
Based on these frames, ankle, spine, neck, head and wrist have the wider of the cited norms or a few degrees more, and
the elbow's z has a wide range, because SMPL's T-pose does not determine the rotation of the humerus. These rows were
not confirmed on other motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from hmr.types import JOINT_NAMES

__all__ = [
    "JOINT_LIMITS",
    "JointLimit",
    "from_anatomical",
    "limit_excess_rad",
    "limits_rad",
    "to_anatomical",
]


@dataclass(frozen=True)
class JointLimit:
    """The range of one joint's anatomical angles in degrees, (lower, upper) per axis."""

    bone: Literal["x", "y", "z"]  # the axis of SMPL's rest pose that the bone is parallel to
    x: tuple[int | float, int | float]
    y: tuple[int | float, int | float]
    z: tuple[int | float, int | float]
    source: str


JOINT_LIMITS: dict[str, JointLimit] = {
    "hip": JointLimit(
        "y", (-125, 30), (-45, 50), (-35, 65),
        "M: 125 flexion, 45 rotations, 45 abduction; W: 40-60 external rotation; NW: 30~ extension, 30~ adduction;"
        " K: 65? abduction once flexed",
    ),
    "knee": JointLimit(
        "y", (-10, 135), (-30, 40), (-10, 10),
        "AAOS: 135 flexion, 10? hyperextension; K: rotation 30? in, 40~ out; varus and valgus a laxity",
    ),
    "ankle": JointLimit(
        "z", (-45, 50), (-40, 40), (-35, 35),
        "M: 50 plantarflexion, 35 inversion; B: 45? dorsiflexion under load; K: 35-45? ab- and adduction",
    ),
    "foot": JointLimit("z", (-70, 45), (-15, 15), (-15, 15), "AAOS: toes 70~ extension, 45~ flexion"),
    "spine1": JointLimit(
        "y", (-25, 60), (-15, 15), (-25, 25),
        "NW: thoracolumbar 80? flexion (60~ of it lumbar), 25~ extension, 35~ lateral, 45? rotation",
    ),
    "spine2": JointLimit("y", (-25, 35), (-20, 20), (-25, 25), "as spine1"),
    "spine3": JointLimit(
        "y", (-25, 35), (-25, 25), (-25, 25), "as spine1; rotation is 35~ thoracic and 5~ lumbar (K)"
    ),
    "neck": JointLimit(
        "y", (-50, 45), (-45, 45), (-45, 45),
        "NW: cervical 45~-60? flexion, 45~-75~ extension, 45~ lateral, 60?-80~ rotation",
    ),
    "head": JointLimit(
        "y", (-50, 60), (-50, 50), (-45, 45),
        "as neck; the split is the rig's, so each joint may take most of it",
    ),
    "collar": JointLimit(
        "x", (-30, 30), (-30, 30), (-15, 45),
        "R: 32 elevation, 5 depression; textbooks: 45~ elevation, 10-15~ depression, 15-30~ pro- and retraction,"
        " 20-50~ axial rotation",
    ),
    "shoulder": JointLimit(
        "x", (-90, 90), (-135, 80), (-115, 100),
        "NW: 180 elevation less the collar's, 60 extension (80 about y for a hanging arm), 90 external rotation;"
        " M: 90 internal rotation; AAOS: 135~ horizontal flexion",
    ),
    "elbow": JointLimit(
        "x", (-67.5, 67.5), (-150, 10), (-15, 75),
        "NW: 150 flexion, 0 extension, 10 more a laxity; its hinge turned up about the bone (K?: humeral retroversion)",
    ),
    "wrist": JointLimit(
        "x", (-80, 80), (-25, 35), (-80, 70),
        "NW: 80 flexion, 70 extension, 20 radial, 30 ulnar, 80 pro- and supination",
    ),
    "hand": JointLimit("x", (-15, 15), (-20, 20), (-90, 45), "AAOS: knuckles 90 flexion, 45 extension"),
}  # fmt: skip

_BODY_JOINTS = JOINT_NAMES[1:]
_ROWS = [JOINT_LIMITS[name.removeprefix("left_").removeprefix("right_")] for name in _BODY_JOINTS]
_BONE = torch.tensor([[float(row.bone == axis) for axis in "xyz"] for row in _ROWS])
# Right limbs are mirrored to left ones: a reflection at x = 0 maps rotation vectors (x, y, z) to (x, -y, -z).
_MIRROR = torch.ones(len(_ROWS), 3)
_MIRROR[[name.startswith("right") for name in _BODY_JOINTS], 1:] = -1
_LOWER, _UPPER = (
    torch.tensor([[row.x[side], row.y[side], row.z[side]] for row in _ROWS]) * (math.pi / 180)
    for side in (0, 1)
)


def limits_rad() -> tuple[Float[Tensor, "23 3"], Float[Tensor, "23 3"]]:
    """Lower and upper bounds of the anatomical angles of the body joints."""
    return _LOWER, _UPPER


def to_anatomical(body_pose: Float[Tensor, "*batch 23 3"]) -> Float[Tensor, "*batch 23 3"]:
    """Anatomical angles (radians) of axis-angle rotations; twist in [-pi, pi], norm of the swing at most pi."""
    bone = _BONE.to(body_pose)
    quat = roma.rotvec_to_unitquat(body_pose * _MIRROR.to(body_pose))
    quat = torch.where(quat[..., 3:] < 0, -quat, quat)
    along, real = (quat[..., :3] * bone).sum(-1, keepdim=True), quat[..., 3:]
    # For a swing by 180 degrees both terms are 0 and the twist is undefined; the clamp keeps the gradient finite.
    length = (along**2 + real**2).clamp_min(1e-12).sqrt()
    untwist = torch.cat([-bone * along, real], dim=-1) / length
    swing = roma.unitquat_to_rotvec(roma.quat_product(quat, untwist))
    return swing * (1 - bone) + 2 * torch.atan2(along, real.clamp_min(1e-6)) * bone


def from_anatomical(angles_rad: Float[Tensor, "*batch 23 3"]) -> Float[Tensor, "*batch 23 3"]:
    """Axis-angle rotations of anatomical angles: the inverse of `to_anatomical`."""
    bone = _BONE.to(angles_rad)
    swing, twist = angles_rad * (1 - bone), angles_rad * bone
    return roma.rotvec_composition([swing, twist]) * _MIRROR.to(angles_rad)


def limit_excess_rad(body_pose: Float[Tensor, "*batch 23 3"]) -> Float[Tensor, "*batch 23"]:
    """How far each joint is outside its range: the norm of the excess of its anatomical angles, 0 inside."""
    angles = to_anatomical(body_pose)
    beyond = angles - angles.clamp(_LOWER.to(angles), _UPPER.to(angles))
    return _norm(beyond)


def _norm(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """The norm, with gradient 0 instead of NaN at the zero vector."""
    squared = vectors.square().sum(-1)
    return torch.where(squared > 0, squared.clamp_min(1e-30).sqrt(), squared)
