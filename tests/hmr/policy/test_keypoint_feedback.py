"""Keypoint feedback is a gradient: compared with autograd on the same springs, and with a worked example."""

from __future__ import annotations

import dataclasses
import math

import pytest
import roma
import torch
from torch import Tensor

from hmr.body.model import Body
from hmr.policy.condition import (
    DEPTH_FLOOR_M,
    FLOOR,
    PointEstimates,
    condition_of,
    unpack_points,
)
from hmr.policy.keypoint_feedback import MAX_RESIDUAL, KeypointGradient
from hmr.policy.parametrization import box_features, pelvis_from_crop, project, split
from hmr.types import NUM_POINTS


@pytest.fixture
def feedback(body: Body) -> KeypointGradient:
    module = KeypointGradient()
    module.fit_to(body)
    return module


@pytest.fixture
def vector() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rotations = roma.rotvec_to_rotmat(0.6 * torch.randn(5, 24, 3, generator=generator))
    betas = torch.randn(5, 10, generator=generator)
    place = torch.tensor([0.1, 0.05, -0.1]) + 0.1 * torch.randn(5, 3, generator=generator)
    return torch.cat([rotations[..., :2].flatten(-3), betas, place], dim=-1)


@pytest.fixture
def geometry() -> Tensor:
    """A person left of the image centre."""
    return torch.tensor([[800.0, 512.0, 384.0, 1024.0, 768.0, 300.0, 420.0, 260.0]]).expand(5, 8)


def projected(feedback: KeypointGradient, vector: Tensor, geometry: Tensor) -> tuple[Tensor, Tensor]:
    """The points of bodies in crop units, and their depths behind the pelvis in metres."""
    rotations, betas, pelvis = split(vector)
    points_m = feedback.points(rotations, betas).points_m
    points_cam_m = points_m + pelvis_from_crop(pelvis, geometry)[:, None]
    center, side = geometry[:, None, 5:7], geometry[:, None, 7:]
    return (project(points_cam_m, geometry) - center) * 2 / side, points_m[..., 2]


def exact(feedback: KeypointGradient, vector: Tensor, geometry: Tensor) -> PointEstimates:
    """The points of these bodies, all visible and certain."""
    position, depth_m = projected(feedback, vector, geometry)
    ones = torch.ones(len(vector), NUM_POINTS)
    return PointEstimates(position, ones, ones, depth_m, ones)


@pytest.fixture
def condition(geometry: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    sigma = torch.exp(-2 + 0.5 * torch.randn(2, 5, NUM_POINTS, generator=generator))
    sigma[:, :, ::7] = math.inf  # not observed
    points = PointEstimates.from_sigma(
        0.6 * torch.randn(5, NUM_POINTS, 2, generator=generator),
        sigma[0],
        torch.rand(5, NUM_POINTS, generator=generator),
        0.4 * torch.randn(5, NUM_POINTS, generator=generator),
        sigma[1],
    )
    return condition_of(points, box_features(geometry))


def energy(feedback: KeypointGradient, vector: Tensor, condition: Tensor, geometry: Tensor) -> Tensor:
    """With the strength of the springs held constant, which makes the limited force a gradient."""
    points = unpack_points(condition)
    position, depth_m = projected(feedback, vector, geometry)
    across, along = points.position - position, (points.depth_m - depth_m)[..., None]
    return _springs(across, points.weight / FLOOR, points.visibility) + _springs(
        along, points.depth_weight / DEPTH_FLOOR_M, points.visibility
    )


def _springs(off: Tensor, stiffness: Tensor, visible: Tensor) -> Tensor:
    residual = off * stiffness[..., None]
    length = residual.norm(dim=-1, keepdim=True).detach()
    strength = visible[..., None] * MAX_RESIDUAL / length.clamp_min(MAX_RESIDUAL)
    return (strength * residual.square() / stiffness[..., None].clamp_min(1e-9)).sum() / 2


def test_shape_and_pelvis_follow_the_negative_gradient(feedback, vector, condition, geometry):
    place = vector.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(energy(feedback, place, condition, geometry), place)
    torch.testing.assert_close(feedback(vector, condition)[:, 144:], -gradient[:, 144:], atol=1e-3, rtol=1e-4)


def test_rotations_follow_the_negative_gradient(feedback, vector, condition, geometry):
    rotations = split(vector)[0]
    rotvec = torch.zeros(5, 24, 3, requires_grad=True)
    columns_6d = (roma.rotvec_to_rotmat(rotvec) @ rotations)[..., :2].flatten(-3)
    moved = torch.cat([columns_6d, vector[:, 144:]], dim=-1)
    (gradient,) = torch.autograd.grad(energy(feedback, moved, condition, geometry), rotvec)
    columns = torch.linalg.cross(-gradient[..., None, :], rotations[..., :2].transpose(-1, -2))
    expected = columns.transpose(-1, -2).flatten(-3)
    torch.testing.assert_close(feedback(vector, condition)[:, :144], expected, atol=1e-3, rtol=1e-4)


def test_feedback_is_zero_at_the_observed_points(feedback, vector, geometry):
    condition = condition_of(exact(feedback, vector, geometry), box_features(geometry))
    assert feedback(vector, condition).abs().max() < 2e-3


def test_points_that_are_invisible_or_not_observed_give_no_feedback(feedback, vector, condition, geometry):
    points, zeros = unpack_points(condition), torch.zeros(5, NUM_POINTS)
    invisible = dataclasses.replace(points, visibility=zeros)
    unobserved = dataclasses.replace(points, weight=zeros, depth_weight=zeros)
    for nothing in (invisible, unobserved):
        assert not feedback(vector, condition_of(nothing, box_features(geometry))).any()


def test_points_to_the_right_move_the_pelvis_right(feedback, vector, geometry):
    """Each of 41 points 0.1 to the right of itself, with a weight of 1, is 0.1 / 0.05 = 2 deviations off. The pelvis
    moves (2 crop units / b) z / f per unit of u; a force of 2 on a point at depth z_i has the weight z / z_i."""
    points = exact(feedback, vector, geometry)
    shifted = dataclasses.replace(points, position=points.position + torch.tensor([0.1, 0.0]))
    u, v = feedback(vector, condition_of(shifted, box_features(geometry)))[:, -2:].T
    assert (u - 82).abs().max() < 82 * 0.35  # depths differ from the pelvis' by less than a third
    assert v.abs().max() < 1e-2


def test_depths_rotate_a_body_and_do_not_move_its_pelvis(feedback, vector, geometry):
    """Depths are relative to the pelvis, so that their forces on it sum to zero."""
    points = exact(feedback, vector, geometry)
    deeper = dataclasses.replace(points, depth_m=points.depth_m + torch.linspace(-0.3, 0.3, NUM_POINTS))
    moved_by = feedback(vector, condition_of(deeper, box_features(geometry)))
    assert moved_by[:, :6].abs().max() > 1e-2
    assert moved_by[:, -3:].abs().max() < 2e-3


def test_bodies_of_a_group_are_independent(feedback, vector, condition):
    group = torch.stack([vector, vector.flip(0)], dim=1)
    both = feedback(group, condition[:, None])
    torch.testing.assert_close(both[:, 0], feedback(vector, condition), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both[:, 1], feedback(vector.flip(0), condition), atol=1e-4, rtol=1e-4)
