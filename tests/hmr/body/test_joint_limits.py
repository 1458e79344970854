"""Properties of the swing-twist decomposition, and worked examples of the excess for several joints."""

import math

import pytest
import roma
import torch

from hmr.body.joint_limits import (
    JOINT_LIMITS,
    from_anatomical,
    limit_excess_rad,
    limits_rad,
    to_anatomical,
)
from hmr.types import JOINT_NAMES

DEG = math.pi / 180


def pose(**rotations_deg: tuple[float, float, float]) -> torch.Tensor:
    body_pose = torch.zeros(23, 3)
    for name, rotation in rotations_deg.items():
        body_pose[JOINT_NAMES.index(name) - 1] = torch.tensor(rotation) * DEG
    return body_pose


def random_pose(seed: int, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(50, 23, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def excess_deg(body_pose: torch.Tensor, name: str) -> float:
    return limit_excess_rad(body_pose)[JOINT_NAMES.index(name) - 1].item() / DEG


def test_anatomical_angles_keep_the_rotation():
    body_pose = random_pose(0)
    again = from_anatomical(to_anatomical(body_pose))
    assert roma.rotvec_geodesic_distance(again, body_pose).max() < 1e-6


def test_twist_does_not_move_the_bone():
    shoulder = pose(left_shoulder=(0, -40, -60))
    twisted = to_anatomical(shoulder)
    twisted[JOINT_NAMES.index("left_shoulder") - 1, 0] += 0.5  # the arm's bone lies along x
    arm = torch.tensor([1.0, 0.0, 0.0])
    moved, expected = (
        roma.quat_action(roma.rotvec_to_unitquat(p), arm.expand(23, 3))
        for p in (from_anatomical(twisted), shoulder)
    )
    torch.testing.assert_close(moved, expected)


def test_rest_pose_is_within_the_limits():
    assert torch.equal(limit_excess_rad(torch.zeros(23, 3)), torch.zeros(23))
    lower, upper = limits_rad()
    assert (lower < 0).all()
    assert (upper > 0).all()


@pytest.mark.parametrize(
    ("joint", "rotation_deg", "expected_deg"),
    [
        ("left_knee", (150, 0, 0), 15),  # heel to thigh: 150 - 135
        ("right_knee", (-30, 0, 0), 20),  # hyperextension: 30 - 10
        ("left_hip", (-120, 0, 0), 0),  # knee to chest
        ("left_hip", (60, 0, 0), 30),  # leg backward: 60 - 30
        ("left_elbow", (0, -160, 0), 10),  # forearm forward: 160 - 150
        ("right_elbow", (0, -40, 0), 30),  # the same direction hyperextends a right elbow: 40 - 10
        ("right_elbow", (0, 140, 0), 0),
        ("right_hip", (0, 0, -75), 10),  # right leg out to its own side: 75 - 65
        ("left_elbow", (80, 0, 0), 12.5),  # twist: 80 - 67.5
        ("spine1", (72, -31, 0), None),  # both at once: more than either alone
    ],
)
def test_worked_excess(joint, rotation_deg, expected_deg):
    found = excess_deg(pose(**{joint: rotation_deg}), joint)
    if expected_deg is None:
        assert found > max(72 - 60, 31 - 15) - 3
    else:
        assert found == pytest.approx(expected_deg, abs=1e-3)


def test_excess_of_two_angles_is_their_norm():
    # twist of the spine 15 + 4 degrees and lateral bend 25 + 3: sqrt(16 + 9) = 5 degrees outside
    angles = pose(spine1=(0, 19, 28))
    assert excess_deg(from_anatomical(angles), "spine1") == pytest.approx(5, abs=1e-3)


def test_mirrored_body_has_mirrored_excess():
    swap = [
        JOINT_NAMES.index(name.replace("left", "?").replace("right", "left").replace("?", "right")) - 1
        for name in JOINT_NAMES[1:]
    ]
    body_pose = random_pose(1)
    mirrored = body_pose[:, swap] * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(limit_excess_rad(mirrored), limit_excess_rad(body_pose)[:, swap])


def test_gradient_is_finite_at_rest_and_at_180_degrees():
    body_pose = torch.stack([torch.zeros(23, 3), pose(left_knee=(150, 0, 0)), pose(left_elbow=(0, -180, 0))])
    body_pose.requires_grad_()
    limit_excess_rad(body_pose).sum().backward()
    gradient = body_pose.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert torch.equal(gradient[0], torch.zeros(23, 3))
    torch.testing.assert_close(gradient[1, JOINT_NAMES.index("left_knee") - 1], torch.tensor([1.0, 0.0, 0.0]))


def test_every_row_names_its_source():
    assert all(len(row.source) > 5 for row in JOINT_LIMITS.values())
