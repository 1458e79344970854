"""Bones turn where they are told to, and a bone mirrored in depth keeps its picture."""

from __future__ import annotations

import pytest
import torch

from hmr.body.bones import CHILDREN, bones_of, mirror_in_depth, turn_bones
from hmr.body.model import Body
from hmr.types import JOINT_NAMES, BodyParams, Camera

SHOULDER, ELBOW, WRIST, HAND = (
    JOINT_NAMES.index(f"left_{n}") for n in ("shoulder", "elbow", "wrist", "hand")
)


def bodies(count: int, seed: int = 0, spread: float = 0.3) -> BodyParams:
    generator = torch.Generator().manual_seed(seed)
    pose, betas = torch.randn(count, 23, 3, generator=generator), torch.randn(count, 10, generator=generator)
    upright = torch.tensor([torch.pi, 0.0, 0.0]).repeat(count, 1)
    return BodyParams(upright, spread * pose, betas, torch.tensor([0.1, -0.2, 4.0]).repeat(count, 1))


def directions(params: BodyParams, body: Body) -> torch.Tensor:
    return torch.nn.functional.normalize(bones_of(body.joints(params))[:, 1:], dim=-1)


def test_a_body_reaches_the_pose_of_another(body: Body) -> None:
    """Lengths differ, so single bones agree exactly and those of hips and shoulders nearly."""
    first, second = bodies(3), bodies(3, seed=1)
    turned = turn_bones(first, body, bones_of(body.joints(second)))
    cosines = (directions(turned, body) * directions(second, body)).sum(dim=-1)
    single = [child - 1 for children in CHILDREN if len(children) == 1 for child in children]
    torch.testing.assert_close(cosines[:, single], torch.ones(3, len(single)), atol=1e-4, rtol=0)
    assert cosines.min() > 0.95
    assert torch.equal(turned.betas, first.betas)
    torch.testing.assert_close(body.joints(turned)[:, 0], body.joints(first)[:, 0])


def test_its_own_bones_leave_a_body_as_it_is(body: Body) -> None:
    params = bodies(2)
    same = turn_bones(params, body, bones_of(body.joints(params)))
    torch.testing.assert_close(body.joints(same), body.joints(params), atol=1e-5, rtol=0)
    torch.testing.assert_close(same.body_pose, params.body_pose, atol=1e-3, rtol=0)


def test_an_opposite_bone_turns_half_way_round(body: Body) -> None:
    params = bodies(2)
    bones = bones_of(body.joints(params))
    bones[:, ELBOW] = -bones[:, ELBOW]
    turned = bones_of(body.joints(turn_bones(params, body, bones, [SHOULDER])))
    torch.testing.assert_close(turned[:, ELBOW], bones[:, ELBOW], atol=1e-4, rtol=0)


def test_an_arm_mirrored_in_depth_keeps_its_picture(body: Body) -> None:
    params, camera = bodies(4, spread=0.5), Camera(900.0, 320.0, 240.0, 640, 480)
    joints = body.joints(params)
    flipped = turn_bones(params, body, mirror_in_depth(bones_of(joints), joints), [SHOULDER, ELBOW])
    moved = body.joints(flipped)
    torch.testing.assert_close(
        camera.project(moved)[:, ELBOW], camera.project(joints)[:, ELBOW], atol=0.1, rtol=0
    )
    torch.testing.assert_close(
        camera.project(moved)[:, WRIST], camera.project(joints)[:, WRIST], atol=15, rtol=0
    )
    rays = torch.nn.functional.normalize(joints[:, ELBOW], dim=-1)  # of the elbow, which stays on it
    before, after = ((bones_of(value)[:, ELBOW] * rays).sum(dim=-1) for value in (joints, moved))
    torch.testing.assert_close(after, -before, atol=1e-4, rtol=0)
    others = [j for j in range(24) if j not in (ELBOW, WRIST, HAND)]
    torch.testing.assert_close(moved[:, others], joints[:, others], atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_any_batch_shape(body: Body, shape: tuple[int, ...]) -> None:
    flat = bodies(max(1, torch.Size(shape).numel()))
    params = BodyParams(
        *(
            t.reshape(*shape, *t.shape[1:])
            for t in (flat.global_orient, flat.body_pose, flat.betas, flat.transl)
        )
    )
    assert turn_bones(params, body, bones_of(body.joints(params))).batch_shape == torch.Size(shape)
