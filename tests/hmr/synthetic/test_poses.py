"""The built-in sampler: within limits, repeatable, and doing what its activities say."""

import math
from functools import cache

import pytest
import roma
import torch

from hmr.body.joint_limits import limit_excess_rad, to_anatomical
from hmr.body.model import load_body
from hmr.synthetic.activities import ACTIVITIES, ARM_MOVEMENTS, LEG_MOVEMENTS
from hmr.synthetic.poses import PoseBatch, Preset, remove_heading, sample_poses
from hmr.types import JOINT_NAMES, BodyParams

COUNT = 1200


@cache
def sampled(preset: Preset = "lab") -> PoseBatch:
    return sample_poses(COUNT, torch.Generator().manual_seed(0), preset)


@cache
def joints(preset: Preset = "lab") -> torch.Tensor:
    batch, zero = sampled(preset), torch.zeros(COUNT, 3)
    return load_body().joints(BodyParams(batch.orient_up, batch.body_pose, torch.zeros(COUNT, 10), zero))


def doing(batch: PoseBatch, activity: str) -> torch.Tensor:
    return batch.activity == list(ACTIVITIES).index(activity)


@pytest.mark.parametrize("preset", ["lab", "wild", "studio"])
def test_every_pose_is_within_the_limits(preset):
    batch = sampled(preset)
    assert batch.body_pose.isfinite().all()
    assert batch.orient_up.isfinite().all()
    assert limit_excess_rad(batch.body_pose).max() < 1e-3


def test_the_generator_decides():
    first, again, other = (sample_poses(9, torch.Generator().manual_seed(s)).body_pose for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_global_randomness_is_left_alone():
    state = torch.get_rng_state()
    sample_poses(9, torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("preset", ["lab", "wild", "studio"])
def test_activities_come_in_their_proportions(preset):
    weights = torch.tensor([getattr(row, preset) for row in ACTIVITIES.values()])
    shares = torch.bincount(sampled(preset).activity, minlength=len(ACTIVITIES)) / COUNT
    # 5 standard deviations of the largest binomial share: 5 sqrt(.47 * .53 / 1200) = .072
    assert (shares - weights / weights.sum()).abs().max() < 0.072


def test_a_studio_has_the_scenarios_of_human36m():
    assert {name for name, row in ACTIVITIES.items() if row.studio} == {"stand", "sit", "walk", "bend"}
    assert sum(row.studio for row in ACTIVITIES.values()) == 15


def test_activities_name_movements_that_exist():
    for activity in ACTIVITIES.values():
        assert set(activity.legs) <= set(LEG_MOVEMENTS)
        assert set(activity.arms) <= set(ARM_MOVEMENTS)


def test_wild_reaches_and_lies_more_than_lab():
    def share(preset, condition) -> float:
        return condition(joints(preset)).float().mean().item()

    def overhead(points):
        return (points[:, 20:22, 1] > points[:, 15:16, 1]).any(1)

    def level(points):
        return (points[:, 12, 1] - points[:, 0, 1]).abs() < 0.25

    assert share("wild", overhead) > 1.5 * share("lab", overhead)
    assert share("wild", level) > 1.5 * share("lab", level)


def test_walkers_swing_each_arm_with_the_other_leg():
    points = joints()[doing(sampled(), "walk")]
    leg = points[:, JOINT_NAMES.index("left_knee"), 2] - points[:, JOINT_NAMES.index("right_knee"), 2]
    arm = points[:, JOINT_NAMES.index("left_wrist"), 2] - points[:, JOINT_NAMES.index("right_wrist"), 2]
    assert torch.corrcoef(torch.stack([leg, arm]))[0, 1] < -0.3


def test_sitters_bend_hips_and_knees_and_the_lying_lie():
    batch = sampled("wild")
    angles = to_anatomical(batch.body_pose)[doing(batch, "sit")]
    hip, knee = (angles[:, JOINT_NAMES.index(f"left_{name}") - 1, 0] for name in ("hip", "knee"))
    assert math.radians(-110) < hip.median() < math.radians(-65)
    assert math.radians(50) < knee.median() < math.radians(115)
    up = roma.rotvec_to_rotmat(batch.orient_up)[:, 1, 1]  # how far the body's long axis points up
    assert up[doing(batch, "lie")].abs().median() < 0.3
    assert up[doing(batch, "stand")].min() > 0.8


def test_heading_is_all_that_is_removed():
    tilt = sampled("wild").orient_up
    yaw = torch.linspace(-3, 3, COUNT)
    about_y = torch.stack([torch.zeros(COUNT), yaw, torch.zeros(COUNT)], dim=-1)
    level = remove_heading(tilt)
    turned = remove_heading(roma.rotvec_composition([about_y, tilt]))
    assert roma.rotvec_geodesic_distance(turned, level).max() < 2e-3
    assert remove_heading(about_y).abs().max() < 1e-5
