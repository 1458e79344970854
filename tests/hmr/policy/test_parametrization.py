"""Laws of the vector that the policy diffuses."""

import math

import pytest
import torch

from hmr.policy.parametrization import (
    box_features,
    geometry_of,
    params_from_vector,
    split,
    vector_from_params,
)
from hmr.types import BodyParams, Box, Camera


def random_params(count: int) -> BodyParams:
    generator = torch.Generator().manual_seed(3)
    return BodyParams(
        torch.randn(count, 3, generator=generator),
        torch.randn(count, 23, 3, generator=generator) * 0.5,
        torch.randn(count, 10, generator=generator),
        torch.randn(count, 3, generator=generator) * 0.3 + torch.tensor([0.0, 0.0, 4.0]),
    )


def geometry(camera: Camera, box: Box, count: int) -> torch.Tensor:
    return geometry_of([camera] * count, [box] * count)


def test_there_and_back_changes_nothing():
    params = random_params(5)
    rest_pelvis = torch.tensor([0.01, -0.2, 0.03]).expand(5, 3)
    rows = geometry(Camera(500.0, 160.0, 120.0, 320, 240), Box(40.0, 20.0, 240.0, 220.0), 5)
    vector = vector_from_params(params, params.transl + rest_pelvis, rows)
    back = params_from_vector(vector, rest_pelvis, rows)
    for before, after in zip(vars(params).values(), vars(back).values(), strict=True):
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_a_pelvis_by_hand():
    # f = 500, z = 5, box side 200: s = 2 * 500 / (5 * 200) = 1, log s = 0; the pelvis projects to
    # 500 * 0.5 / 5 + 160 = 210 and the box's centre is 140: u = (210 - 140) * 2 / 200 = 0.7
    params = random_params(1)
    pelvis = torch.tensor([[0.5, 0.0, 5.0]])
    rows = geometry(Camera(500.0, 160.0, 120.0, 320, 240), Box(40.0, 20.0, 240.0, 220.0), 1)
    _, _, seen = split(vector_from_params(params, pelvis, rows))
    torch.testing.assert_close(seen, torch.tensor([[0.0, 0.7, 0.0]]))


def test_another_focal_length_moves_depth_and_keeps_the_picture():
    """The truth of a long lens and a hypothesis under a guessed one meet in the same vector."""
    params, box = random_params(1), Box(40.0, 20.0, 240.0, 220.0)
    long, guess = Camera(900.0, 160.0, 120.0, 320, 240), Camera(450.0, 160.0, 120.0, 320, 240)
    rest = torch.zeros(1, 3)
    vector = vector_from_params(params, params.transl, geometry(long, box, 1))
    moved = params_from_vector(vector, rest, geometry(guess, box, 1)).transl
    assert moved[0, 2] == pytest.approx(float(params.transl[0, 2]) / 2, rel=1e-5)
    torch.testing.assert_close(guess.project(moved), long.project(params.transl), atol=1e-3, rtol=1e-5)


def test_box_features_are_angles():
    # crop centre 100 px right of the principal point at f = 200: tan = 0.5; side 100 / 200 = 0.5
    row = geometry(Camera(200.0, 50.0, 50.0, 100, 100), Box(100.0, 0.0, 200.0, 100.0), 1)
    torch.testing.assert_close(box_features(row), torch.tensor([[0.5, 0.0, 0.5]]))


def test_rotations_of_any_vector_are_rotations():
    vector = torch.randn(7, 157, generator=torch.Generator().manual_seed(0))
    rotations, _, _ = split(vector)
    identity = torch.eye(3).expand_as(rotations)
    torch.testing.assert_close(rotations @ rotations.mT, identity, atol=1e-5, rtol=0)
    assert torch.allclose(torch.linalg.det(rotations), torch.ones(7, 24), atol=1e-5)


def test_a_camera_crops_and_projects_alike():
    camera, box = Camera(300.0, 100.0, 80.0, 200, 160), Box(20.0, 30.0, 120.0, 130.0)
    point = torch.tensor([0.2, -0.1, 3.0])
    whole, inside = camera.project(point), camera.crop(box, 50).project(point)
    torch.testing.assert_close(inside, (whole - torch.tensor([20.0, 30.0])) * 0.5)
    assert Camera.estimate(30, 40).focal_px == pytest.approx(math.hypot(30, 40))
