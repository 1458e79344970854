"""Two-segment limbs: worked inverse kinematics, and directions that forward kinematics give back."""

import math

import roma
import torch
from torch.nn.functional import normalize

from hmr.synthetic import limbs
from hmr.synthetic.limbs import arm_angles, clear_trunk, leg_angles, part_legs

RIGHT_ANGLE = math.pi / 2


def random_limbs(seed: int) -> torch.Tensor:
    return normalize(torch.randn(400, 2, 2, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)


def turned(rotvec: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return roma.quat_action(roma.rotvec_to_unitquat(rotvec), vector)


def test_sitting_is_a_right_angle_at_hip_and_knee():
    legs = torch.tensor([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]).expand(1, 2, 2, 3)
    hip, knee = leg_angles(legs, torch.zeros(1, 2))
    torch.testing.assert_close(hip[0, 0], torch.tensor([-RIGHT_ANGLE, 0.0, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(knee, torch.full((1, 2), RIGHT_ANGLE), atol=1e-5, rtol=0)


def test_knee_never_bends_forward():
    legs = torch.tensor([[0.0, -1.0, 0.0], [0.0, -0.7, 0.7]]).expand(1, 2, 2, 3)
    _, knee = leg_angles(legs, torch.zeros(1, 2))
    torch.testing.assert_close(knee, torch.zeros(1, 2))


def test_hanging_arm_with_forearm_forward():
    # T-pose to hanging: 90 degrees down about z; forearm forward: elbow at 90, no twist needed
    arms = torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]).expand(1, 2, 2, 3)
    zero = torch.zeros(1, 2)
    collar, shoulder, elbow = arm_angles(arms, zero, zero, zero)
    torch.testing.assert_close(collar[0, 0], torch.zeros(3))
    torch.testing.assert_close(shoulder[0, 0], torch.tensor([0.0, 0.0, -RIGHT_ANGLE]), atol=1e-5, rtol=0)
    torch.testing.assert_close(elbow[0, 0], torch.tensor([0.0, -RIGHT_ANGLE, 0.0]), atol=1e-5, rtol=0)


def test_forward_kinematics_give_the_arm_back():
    arms = random_limbs(0)
    half, zero = torch.full((400, 2), 0.5), torch.zeros(400, 2)
    collar, shoulder, elbow = arm_angles(arms, half, zero, half)
    bone = torch.tensor([1.0, 0.0, 0.0]).expand(400, 2, 3)
    twist = shoulder * bone
    along = turned(collar, turned(shoulder - twist, bone))
    forearm = turned(collar, turned(shoulder - twist, turned(twist, turned(elbow, bone))))
    bent = elbow.norm(dim=-1) > math.radians(25)  # below, the twist is damped on purpose
    torch.testing.assert_close(along, arms[:, :, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(forearm[bent], arms[:, :, 1][bent], atol=1e-4, rtol=0)


def test_cleared_hands_are_outside_the_trunk_and_clear_arms_do_not_move():
    raised = torch.tensor([[0.5, 0.8, 0.2], [0.1, 1.0, 0.1]]).expand(3, 2, 2, 3)
    raised = normalize(raised, dim=-1)
    torch.testing.assert_close(clear_trunk(raised), raised)
    through = normalize(torch.tensor([[0.0, -1.0, 0.1], [-0.3, -1.0, 0.0]]), dim=-1).expand(1, 2, 2, 3)
    cleared = clear_trunk(through)
    elbow = torch.tensor([limbs._SHOULDER_M, 0.0, 0.0]) + limbs._UPPER_ARM_M * cleared[:, :, 0]
    middle = elbow + 0.6 * limbs._FOREARM_M * cleared[:, :, 1]
    outside = (middle[..., 0] / limbs._TRUNK_WIDTH_M) ** 2 + (middle[..., 2] / limbs._TRUNK_DEPTH_M) ** 2
    assert (outside > 0.9).all()


def test_knees_and_ankles_are_parted():
    together = normalize(torch.tensor([[-0.3, -1.0, 0.0], [0.0, -1.0, 0.0]]), dim=-1).expand(1, 2, 2, 3)
    parted = part_legs(together)
    knee = torch.tensor([limbs._HIP_M, 0.0, 0.0]) + limbs._THIGH_M * parted[:, :, 0]
    ankle = knee + limbs._SHIN_M * parted[:, :, 1]
    for joint in (knee, ankle):
        assert (joint[:, 0, 0] + joint[:, 1, 0] > 0.9 * limbs._LEG_GAP_M).all()
