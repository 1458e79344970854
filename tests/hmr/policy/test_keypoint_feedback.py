"""The pull is a gradient: it is held against what autograd says of the same springs, and against a worked sum."""

import pytest
import roma
import torch
from torch import Tensor

from hmr.body.model import Body
from hmr.policy.encoder import READABLE, read_joints, readable
from hmr.policy.keypoint_feedback import FLOOR, STRONGEST, KeypointGradient
from hmr.policy.parametrization import box_features, split
from hmr.pretraining.losses import joints_of, reproject

OTHER_FEATURES = 7  # whatever an encoder knows beside keypoints


@pytest.fixture
def pull(body: Body) -> KeypointGradient:
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
    """A person left of the view's middle."""
    return torch.tensor([[800.0, 512.0, 384.0, 1024.0, 768.0, 300.0, 420.0, 260.0]]).expand(5, 8)


def features_of(told: dict[str, Tensor], geometry: Tensor) -> Tensor:
    numbers = readable(**told)
    return torch.cat([torch.ones(len(numbers), OTHER_FEATURES), numbers, box_features(geometry)], dim=-1)


def told_of(vector: Tensor, geometry: Tensor, body: Body, log_sigma: float = 0.0) -> dict[str, Tensor]:
    """What a perfect eye would say of these bodies, as sure of it as `log_sigma`; certain that all is in sight."""
    joints_m = joints_of(vector, body)
    same = torch.full((len(vector), 24), log_sigma)
    return {
        "keypoints": reproject(vector, joints_m, geometry),
        "log_sigma": same,
        "visible_logit": torch.full((len(vector), 24), 30.0),
        "depth_m": joints_m[..., 2],
        "depth_log_sigma": same,
    }


@pytest.fixture
def features(geometry: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    told = {
        "keypoints": 0.6 * torch.randn(5, 24, 2, generator=generator),
        "log_sigma": -2 + 0.5 * torch.randn(5, 24, generator=generator),
        "visible_logit": torch.randn(5, 24, generator=generator),
        "depth_m": 0.4 * torch.randn(5, 24, generator=generator),
        "depth_log_sigma": -2 + 0.5 * torch.randn(5, 24, generator=generator),
    }
    return features_of(told, geometry)


def energy(vector: Tensor, features: Tensor, geometry: Tensor, body: Body) -> Tensor:
    """Of springs as strong as the residuals are now, which is what makes a cut-off force a gradient."""
    told, joints_m = read_joints(features[:, :-3]), joints_of(vector, body)
    across = told.keypoints - reproject(vector, joints_m, geometry)
    along = (told.depth_m - joints_m[..., 2])[..., None]
    return _springs(across, told.sigma, told.visible) + _springs(along, told.depth_sigma_m, told.visible)


def _springs(off: Tensor, sigma: Tensor, visible: Tensor) -> Tensor:
    deviation = (sigma.square() + FLOOR**2).sqrt()[..., None]
    residual = off / deviation
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


def test_a_body_where_it_was_seen_is_not_pulled(pull, vector, geometry, body):
    features = features_of(told_of(vector, geometry, body), geometry)
    assert pull(vector, features).abs().max() < 1e-4


def test_what_is_out_of_sight_does_not_pull(pull, vector, features):
    hidden = features.clone()
    hidden[:, OTHER_FEATURES:-3].unflatten(-1, (24, READABLE))[..., 3] = 0
    assert not pull(vector, hidden).any()


def test_keypoints_to_the_right_pull_the_pelvis_there_by_their_number(pull, vector, geometry, body):
    """Each of 24 joints 0.1 to the right of itself, sigma 0 but for the floor of 0.05, is 2 deviations off. The pelvis
    moves (2 crop units / b) z / f a unit of u; a force of 2 a joint seen at its depth z_j counts z / z_j of itself."""
    told = told_of(vector, geometry, body, log_sigma=-20.0)
    shown = {"keypoints": told["keypoints"] + torch.tensor([0.1, 0.0])}
    features = features_of(told | shown, geometry)
    u, v = pull(vector, features)[:, -2:].T
    assert (u - 48).abs().max() < 48 * 0.35  # depths differ from the pelvis' by less than a third
    assert v.abs().max() < 1e-3


def test_depths_turn_a_body_and_leave_it_in_its_place(pull, vector, geometry, body):
    """They are told from the pelvis, so that their forces on it add up to nothing."""
    told = told_of(vector, geometry, body)
    deeper = {"depth_m": told["depth_m"] + torch.linspace(-0.3, 0.3, 24)}
    pulled = pull(vector, features_of(told | deeper, geometry))
    assert pulled[:, :6].abs().max() > 1e-2
    assert pulled[:, -3:].abs().max() < 1e-5


def test_an_image_pulls_every_body_of_its_group_by_itself(pull, vector, features):
    group = torch.stack([vector, vector.flip(0)], dim=1)
    both = pull(group, features[:, None])
    torch.testing.assert_close(both[:, 0], pull(vector, features), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both[:, 1], pull(vector.flip(0), features), atol=1e-4, rtol=1e-4)
