"""Keypoint feedback is a gradient: compared with autograd on the same springs, and with a worked example."""

import pytest
import roma
import torch
from torch import Tensor

from hmr.body.model import Body
from hmr.policy.encoder import NUMBERS_PER_JOINT, pack_joints, unpack_joints
from hmr.policy.keypoint_feedback import FLOOR, MAX_RESIDUAL, KeypointGradient
from hmr.policy.parametrization import box_features, split
from hmr.pretraining.losses import joints_of, reproject

OTHER_FEATURES = 7  # of an encoder, beside its joints


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


def features_of(joints: dict[str, Tensor], geometry: Tensor) -> Tensor:
    numbers = pack_joints(**joints)
    return torch.cat([torch.ones(len(numbers), OTHER_FEATURES), numbers, box_features(geometry)], dim=-1)


def exact_joints(vector: Tensor, geometry: Tensor, body: Body, log_sigma: float = 0.0) -> dict[str, Tensor]:
    """The exact joints of these bodies with deviation `log_sigma`, all visible."""
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
    joints = {
        "keypoints": 0.6 * torch.randn(5, 24, 2, generator=generator),
        "log_sigma": -2 + 0.5 * torch.randn(5, 24, generator=generator),
        "visible_logit": torch.randn(5, 24, generator=generator),
        "depth_m": 0.4 * torch.randn(5, 24, generator=generator),
        "depth_log_sigma": -2 + 0.5 * torch.randn(5, 24, generator=generator),
    }
    return features_of(joints, geometry)


def energy(vector: Tensor, features: Tensor, geometry: Tensor, body: Body) -> Tensor:
    """With the strength of the springs held constant, which makes the limited force a gradient."""
    joints, joints_m = unpack_joints(features[:, :-3]), joints_of(vector, body)
    across = joints.keypoints - reproject(vector, joints_m, geometry)
    along = (joints.depth_m - joints_m[..., 2])[..., None]
    return _springs(across, joints.sigma, joints.visible) + _springs(
        along, joints.depth_sigma_m, joints.visible
    )


def _springs(off: Tensor, sigma: Tensor, visible: Tensor) -> Tensor:
    deviation = (sigma.square() + FLOOR**2).sqrt()[..., None]
    residual = off / deviation
    length = residual.norm(dim=-1, keepdim=True).detach()
    strength = visible[..., None] * MAX_RESIDUAL / length.clamp_min(MAX_RESIDUAL)
    return (strength * deviation * residual.square()).sum() / 2


def test_shape_and_pelvis_follow_the_negative_gradient(feedback, vector, features, geometry, body):
    place = vector.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(energy(place, features, geometry, body), place)
    torch.testing.assert_close(feedback(vector, features)[:, 144:], -gradient[:, 144:], atol=1e-4, rtol=1e-4)


def test_rotations_follow_the_negative_gradient(feedback, vector, features, geometry, body):
    rotations = split(vector)[0]
    rotvec = torch.zeros(5, 24, 3, requires_grad=True)
    columns_6d = (roma.rotvec_to_rotmat(rotvec) @ rotations)[..., :2].flatten(-3)
    moved = torch.cat([columns_6d, vector[:, 144:]], dim=-1)
    (gradient,) = torch.autograd.grad(energy(moved, features, geometry, body), rotvec)
    columns = torch.linalg.cross(-gradient[..., None, :], rotations[..., :2].transpose(-1, -2))
    expected = columns.transpose(-1, -2).flatten(-3)
    torch.testing.assert_close(feedback(vector, features)[:, :144], expected, atol=1e-4, rtol=1e-4)


def test_feedback_is_zero_at_the_detected_joints(feedback, vector, geometry, body):
    features = features_of(exact_joints(vector, geometry, body), geometry)
    assert feedback(vector, features).abs().max() < 1e-4


def test_invisible_joints_give_no_feedback(feedback, vector, features):
    hidden = features.clone()
    hidden[:, OTHER_FEATURES:-3].unflatten(-1, (24, NUMBERS_PER_JOINT))[..., 3] = 0
    assert not feedback(vector, hidden).any()


def test_keypoints_to_the_right_move_the_pelvis_right(feedback, vector, geometry, body):
    """Each of 24 joints 0.1 to the right of itself, sigma 0 plus the floor of 0.05, is 2 deviations off. The pelvis
    moves (2 crop units / b) z / f per unit of u; a force of 2 on a joint at depth z_j has the weight z / z_j."""
    joints = exact_joints(vector, geometry, body, log_sigma=-20.0)
    shifted = {"keypoints": joints["keypoints"] + torch.tensor([0.1, 0.0])}
    features = features_of(joints | shifted, geometry)
    u, v = feedback(vector, features)[:, -2:].T
    assert (u - 48).abs().max() < 48 * 0.35  # depths differ from the pelvis' by less than a third
    assert v.abs().max() < 1e-3


def test_depths_rotate_a_body_and_do_not_move_its_pelvis(feedback, vector, geometry, body):
    """Depths are relative to the pelvis, so that their forces on it sum to zero."""
    joints = exact_joints(vector, geometry, body)
    deeper = {"depth_m": joints["depth_m"] + torch.linspace(-0.3, 0.3, 24)}
    moved_by = feedback(vector, features_of(joints | deeper, geometry))
    assert moved_by[:, :6].abs().max() > 1e-2
    assert moved_by[:, -3:].abs().max() < 1e-5


def test_bodies_of_a_group_are_independent(feedback, vector, features):
    group = torch.stack([vector, vector.flip(0)], dim=1)
    both = feedback(group, features[:, None])
    torch.testing.assert_close(both[:, 0], feedback(vector, features), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both[:, 1], feedback(vector.flip(0), features), atol=1e-4, rtol=1e-4)
