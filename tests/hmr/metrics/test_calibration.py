"""Worked examples, and the coverage of samples from the true distribution against its theoretical value."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from hmr.metrics.calibration import coverage, hidden_by_occluder, hidden_over_visible
from hmr.types import BodyParams, Camera, Truth


def test_coverage_is_the_share_of_coordinates_between_the_quantiles() -> None:
    # x of every joint but the pelvis takes 0 to 10 over 11 samples: the 10th percentile is 1, the 90th 9.
    joints = torch.zeros(11, 24, 3)
    joints[:, 1:, 0] = torch.arange(11.0)[:, None]
    true = torch.zeros(24, 3)
    true[1:, 0] = torch.cat([torch.full((10,), 1.0), torch.full((13,), 9.5)])
    # y and z: all samples are 0 and so is the truth, 46 of 46 inside; x: 10 of 23 inside, at the bound itself.
    assert coverage(joints, true) == pytest.approx((46 + 10) / 69)
    # The interval of level 1 reaches from 0 to 10.
    assert coverage(joints, true, level=1.0) == 1.0


def test_coverage_is_of_the_pelvis_aligned_skeleton() -> None:
    joints = torch.randn(20, 24, 3, generator=torch.Generator().manual_seed(0))
    true = joints.mean(dim=0) + 0.5 * torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
    moved = joints + torch.randn(20, 1, 3, generator=torch.Generator().manual_seed(2))
    assert coverage(moved, true + 3.0) == coverage(joints, true)
    assert 0 < coverage(joints, true) < 1


@pytest.mark.parametrize("count", [20, 100])
def test_samples_from_the_true_distribution_cover_slightly_less_than_the_level(count: int) -> None:
    # E[U at rank r of M] = r / (M + 1), and the quantile q stands at rank 1 + q (M - 1): .8 (M - 1) / (M + 1).
    generator = torch.Generator().manual_seed(0)
    covered = []
    for _ in range(100):
        everyone = torch.randn(count + 1, 24, 3, generator=generator)
        everyone[:, 0] = 0
        covered.append(coverage(everyone[:count], everyone[count]))
    # 6,900 coordinates: a standard error of sqrt(.8 * .2 / 6900) = .005.
    assert np.mean(covered) == pytest.approx(0.8 * (count - 1) / (count + 1), abs=0.02)


def test_joints_outside_the_image_are_not_hidden_by_an_occluder() -> None:
    keypoints_px = torch.tensor([[5.0, 5.0]]).repeat(24, 1)
    keypoints_px[1] = torch.tensor([-0.5, 5.0])  # left of it
    keypoints_px[2] = torch.tensor([5.0, 20.0])  # rows are 0 to 19
    keypoints_px[3] = torch.tensor([31.9, 19.9])  # the last pixel
    visible = torch.ones(24, dtype=torch.bool)
    visible[1:5] = False
    params = BodyParams(torch.zeros(3), torch.zeros(23, 3), torch.zeros(10), torch.zeros(3))
    camera = Camera(30.0, 16.0, 10.0, 32, 20)
    truth = Truth(params, camera, torch.zeros(24, 3), keypoints_px, visible, np.zeros((20, 32), bool))
    assert hidden_by_occluder(truth).nonzero().flatten().tolist() == [3, 4]
    seen = dataclasses.replace(truth, visible=torch.ones(24, dtype=torch.bool))
    assert not hidden_by_occluder(seen).any()


def test_the_ratio_is_taken_joint_by_joint() -> None:
    # Joint 0 is narrow and joint 1 wide in all images: pooled, (30 + 300 + 300) / 3 over (10 + 10 + 200) / 3.
    hidden = np.array([[30.0, 300.0], [math.nan, 300.0], [math.nan, math.nan]])
    visible = np.array([[math.nan, math.nan], [10.0, math.nan], [10.0, 200.0]])
    assert hidden_over_visible(hidden, visible, min_images=1) == pytest.approx((30 / 10 + 300 / 200) / 2)
    # Two images of each kind: joint 0 is hidden in only one, joint 1 visible in only one.
    assert hidden_over_visible(hidden, visible, min_images=2) is None


def test_joints_with_too_few_images_do_not_count() -> None:
    hidden, visible = np.full((20, 3), math.nan), np.full((20, 3), math.nan)
    hidden[:10, :] = [[20.0, 60.0, 900.0]]
    visible[10:, :2] = [[10.0, 20.0]]
    visible[10:19, 2] = 1.0  # nine images
    assert hidden_over_visible(hidden, visible) == pytest.approx((2 + 3) / 2)
