"""The pull is a gradient: it is held against what autograd says of the same springs, and against a worked sum."""

import pytest
import roma
import torch
from torch import Tensor

from hmr.body import Body
from hmr.encoder import read_keypoints
from hmr.parametrization import box_features, split
from hmr.pretrain_losses import joints_of, reproject
from hmr.pull import FLOOR, STRONGEST, KeypointPull

OTHER_FEATURES = 7  # whatever an encoder knows beside keypoints


@pytest.fixture
def pull(body: Body) -> KeypointPull:
    module = KeypointPull()
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
    """A person left of the view's middle."""
    return torch.tensor([[800.0, 512.0, 384.0, 1024.0, 768.0, 300.0, 420.0, 260.0]]).expand(5, 8)


def features_of(keypoints: Tensor, log_sigma: Tensor, visible: Tensor, geometry: Tensor) -> Tensor:
    readable = torch.cat([keypoints, log_sigma[..., None], visible[..., None]], dim=-1).flatten(1)
    return torch.cat([torch.ones(len(readable), OTHER_FEATURES), readable, box_features(geometry)], dim=-1)


@pytest.fixture
def features(geometry: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    keypoints = 0.6 * torch.randn(5, 24, 2, generator=generator)
    log_sigma = -2 + 0.5 * torch.randn(5, 24, generator=generator)
    return features_of(keypoints, log_sigma, torch.rand(5, 24, generator=generator), geometry)


def energy(vector: Tensor, features: Tensor, geometry: Tensor, body: Body) -> Tensor:
    """Of springs as strong as the residuals are now, which is what makes a cut-off force a gradient."""
    keypoints, sigma, visible = read_keypoints(features[:, :-3])
    deviation = (sigma.square() + FLOOR**2).sqrt()[..., None]
    residual = (keypoints - reproject(vector, joints_of(vector, body), geometry)) / deviation
    length = residual.norm(dim=-1, keepdim=True).detach()
    strength = visible[..., None] * STRONGEST / length.clamp_min(STRONGEST)
    return (strength * deviation * residual.square()).sum() / 2


def test_shape_and_place_are_pulled_down_the_gradient(pull, vector, features, geometry, body):
    place = vector.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(energy(place, features, geometry, body), place)
    torch.testing.assert_close(pull(vector, features)[:, 144:], -gradient[:, 144:], atol=1e-4, rtol=1e-4)


def test_rotations_are_turned_down_the_gradient(pull, vector, features, geometry, body):
    rotations = split(vector)[0]
    turn = torch.zeros(5, 24, 3, requires_grad=True)
    turned = (roma.rotvec_to_rotmat(turn) @ rotations)[..., :2].flatten(-3)
    moved = torch.cat([turned, vector[:, 144:]], dim=-1)
    (gradient,) = torch.autograd.grad(energy(moved, features, geometry, body), turn)
    columns = torch.linalg.cross(-gradient[..., None, :], rotations[..., :2].transpose(-1, -2))
    expected = columns.transpose(-1, -2).flatten(-3)
    torch.testing.assert_close(pull(vector, features)[:, :144], expected, atol=1e-4, rtol=1e-4)


def test_a_body_on_its_keypoints_is_not_pulled(pull, vector, geometry, body):
    keypoints = reproject(vector, joints_of(vector, body), geometry)
    features = features_of(keypoints, torch.zeros(5, 24), torch.ones(5, 24), geometry)
    assert pull(vector, features).abs().max() < 1e-4


def test_what_is_out_of_sight_does_not_pull(pull, vector, features):
    hidden = features.clone()
    hidden[:, OTHER_FEATURES:-3].unflatten(-1, (24, 4))[..., 3] = 0
    assert not pull(vector, hidden).any()


def test_keypoints_to_the_right_pull_the_pelvis_there_by_their_number(pull, vector, geometry, body):
    """Each of 24 joints 0.1 to the right of itself, sigma 0 but for the floor of 0.05, is 2 deviations off. The pelvis
    moves (2 crop units / b) z / f a unit of u; a force of 2 a joint seen at its depth z_j counts z / z_j of itself."""
    shown = reproject(vector, joints_of(vector, body), geometry)
    features = features_of(
        shown + torch.tensor([0.1, 0.0]), torch.full((5, 24), -20.0), torch.ones(5, 24), geometry
    )
    u, v = pull(vector, features)[:, -2:].T
    assert (u - 48).abs().max() < 48 * 0.35  # depths differ from the pelvis' by less than a third
    assert v.abs().max() < 1e-3


def test_an_image_pulls_every_body_of_its_group_by_itself(pull, vector, features):
    group = torch.stack([vector, vector.flip(0)], dim=1)
    both = pull(group, features[:, None])
    torch.testing.assert_close(both[:, 0], pull(vector, features), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both[:, 1], pull(vector.flip(0), features), atol=1e-4, rtol=1e-4)
