"""Points on a body's surface that detectors of people report: face, feet and knuckles.

Each point moves rigidly with one joint: the parts it lies on (head, foot, hand) hardly bend, and a chain of 24 joints
with 17 points costs a thousandth of skinning all vertices. Face and feet are vertices of smplx's table, which the
default body has too; of hands it holds fingertips only, from which the knuckles are computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import roma
import torch
from jaxtyping import Float
from smplx.vertex_ids import vertex_ids
from torch import Tensor, nn

from hmr.body.model import EMBEDDED_BODY, Body
from hmr.types import (
    JOINT_NAMES,
    LANDMARKS,
    NUM_BETAS,
    NUM_JOINTS,
    NUM_POINTS,
    PARENTS,
    SURFACE_POINT_NAMES,
    BodyParams,
)

__all__ = ["POINT_JOINTS", "BodyPoints", "PosedPoints"]

# The joint that moves each surface point, by the end of the point's name.
_JOINT_OF = {
    "nose": "head", "eye": "head", "ear": "head", "heel": "ankle", "big_toe": "foot", "small_toe": "foot",
    "index_knuckle": "wrist", "pinky_knuckle": "wrist", "thumb_knuckle": "wrist",
}  # fmt: skip
# Keys of smplx's table, without the leading l or r of the eyes, ears and fingers and L or R of the feet.
_SMPLX_KEYS = {"eye": "eye", "ear": "ear", "big_toe": "BigToe", "small_toe": "SmallToe", "heel": "Heel"}


def _split(name: str) -> tuple[str, str]:
    """Side ("left", "right" or "") and kind of a point."""
    side, _, kind = name.partition("_")
    return (side, kind) if side in ("left", "right") else ("", name)


def _joint_of(name: str) -> int:
    side, kind = _split(name)
    joint = _JOINT_OF[kind]
    return JOINT_NAMES.index(f"{side}_{joint}" if joint != "head" else joint)


POINT_JOINTS = (*range(len(JOINT_NAMES)), *map(_joint_of, SURFACE_POINT_NAMES))
"""For each of `POINT_NAMES`, the joint whose rotation moves it; a joint is moved by itself."""


PARENT = [0, *PARENTS[1:]]  # of each joint; the pelvis is its own
ATTACHED = list(POINT_JOINTS[NUM_JOINTS:])  # the joint that moves each surface point


@dataclass(frozen=True)
class PosedPoints:
    """Posed bodies with the pelvis at the origin, along the axes of the root's rotation."""

    world: Float[Tensor, "*batch 24 3 3"]  # rotation of each joint
    parent_world: Float[Tensor, "*batch 24 3 3"]  # of its parent; identity for the pelvis
    points_m: Float[Tensor, "*batch 41 3"]


class BodyPoints(nn.Module):
    """The points of `POINT_NAMES` on the unposed body, and their kinematics."""

    joint_template: Tensor
    joint_shapedirs: Tensor
    surface_template: Tensor
    surface_shapedirs: Tensor

    def __init__(self) -> None:
        super().__init__()
        surface = NUM_POINTS - NUM_JOINTS
        self.register_buffer("joint_template", torch.zeros(NUM_JOINTS, 3))
        self.register_buffer("joint_shapedirs", torch.zeros(NUM_JOINTS, 3, NUM_BETAS))
        self.register_buffer("surface_template", torch.zeros(surface, 3))
        self.register_buffer("surface_shapedirs", torch.zeros(surface, 3, NUM_BETAS))

    def fit_to(self, body: Body) -> BodyPoints:
        """Copy the points of `body`; they are linear in the vertices, and so in the betas. Returns itself."""
        weights = _vertex_weights(body)
        template, shapedirs = body.model.v_template.cpu(), body.model.shapedirs.cpu()
        self.joint_template.copy_(body.joint_template)
        self.joint_shapedirs.copy_(body.joint_shapedirs)
        self.surface_template.copy_(weights @ template)
        self.surface_shapedirs.copy_(torch.einsum("pv,vik->pik", weights, shapedirs))
        return self

    def forward(
        self, rotations: Float[Tensor, "*batch 24 3 3"], betas: Float[Tensor, "*batch 10"]
    ) -> PosedPoints:
        rest_m = self.joint_template + torch.einsum("jik,...k->...ji", self.joint_shapedirs, betas)
        bones_m = rest_m - rest_m[..., PARENT, :]
        identity = torch.eye(3, device=rotations.device).expand_as(rotations[..., 0, :, :])
        world, parent_world = [rotations[..., 0, :, :]], [identity]
        joints_m = [torch.zeros_like(bones_m[..., 0, :])]
        for child, parent in enumerate(PARENTS[1:], start=1):
            parent_world.append(world[parent])
            world.append(world[parent] @ rotations[..., child, :, :])
            joints_m.append(joints_m[parent] + (world[parent] @ bones_m[..., child, :, None])[..., 0])
        turned, joints = torch.stack(world, dim=-3), torch.stack(joints_m, dim=-2)
        surface_m = self.surface_template + torch.einsum("pik,...k->...pi", self.surface_shapedirs, betas)
        offsets_m = surface_m - rest_m[..., ATTACHED, :]
        surface = joints[..., ATTACHED, :] + (turned[..., ATTACHED, :, :] @ offsets_m[..., None])[..., 0]
        return PosedPoints(turned, torch.stack(parent_world, dim=-3), torch.cat([joints, surface], dim=-2))

    def in_camera(self, params: BodyParams) -> Float[Tensor, "*batch 41 3"]:
        """The points in the frame of `global_orient` and `transl`, metres."""
        rotvec = torch.cat([params.global_orient[..., None, :], params.body_pose], dim=-2)
        posed = self(roma.rotvec_to_rotmat(rotvec), params.betas)
        pelvis_m = self.joint_template[0] + params.betas @ self.joint_shapedirs[0].mT + params.transl
        return posed.points_m + pelvis_m[..., None, :]

    def joints(self, params: BodyParams) -> Float[Tensor, "*batch 24 3"]:
        """As `hmr.body.model.Body.joints` of the body that the points were copied from."""
        return self.in_camera(params)[..., :NUM_JOINTS, :]


def _vertex_weights(body: Body) -> Float[Tensor, "17 vertices"]:
    table = _landmarks(body.name)
    return torch.stack([_weights_of(body, table, name) for name in SURFACE_POINT_NAMES])


def _landmarks(name: str) -> dict[str, int]:
    """smplx's names of vertices; SMPL and SMPL-H have the same mesh."""
    if name != "embedded":
        return vertex_ids["smplx" if name == "smplx" else "smplh"]
    with np.load(EMBEDDED_BODY, allow_pickle=False) as arrays:
        return dict(zip(LANDMARKS, arrays["vertex_ids"].tolist(), strict=True))


def _weights_of(body: Body, table: dict[str, int], name: str) -> Float[Tensor, "vertices"]:
    side, kind = _split(name)
    if kind == "nose":
        return _one_hot(table["nose"], body)
    if kind in _SMPLX_KEYS:
        key = _SMPLX_KEYS[kind]
        letter = side[0].upper() if key[0].isupper() else side[0]
        return _one_hot(table[letter + key], body)
    return _knuckle(body, table, side, kind.removesuffix("_knuckle"))


def _one_hot(vertex: int, body: Body) -> Float[Tensor, "vertices"]:
    weights = torch.zeros(len(body.model.v_template))
    weights[vertex] = 1.0
    return weights


def _knuckle(body: Body, table: dict[str, int], side: str, finger: str) -> Float[Tensor, "vertices"]:
    """Half way from the wrist to a fingertip: fingers and palm of a hand are about equally long."""
    tip = _one_hot(table[f"{side[0]}{finger}"], body)
    wrist = body.model.J_regressor.cpu()[JOINT_NAMES.index(f"{side}_wrist")]
    return (tip + wrist) / 2
