"""Motions with unevenly spaced frames, resampled at a constant rate."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from hmr.body.motion import MAX_SAMPLES_PER_POSE, Motion
from hmr.types import BodyParams
from tests.hmr.body.test_model import random_params


def motion(*times_s: float) -> Motion:
    """Random poses at all times but the last, which is the end."""
    *starts, end_s = map(float, times_s)
    return Motion(random_params(len(starts), seed=2), tuple(starts), end_s)


@pytest.mark.parametrize(
    ("times_s", "fps", "frames"),
    [
        ((0, 0.04, 0.08, 0.12), 25, 3),
        ((0, 1, 1.04, 1.08, 1.12), 25, 28),  # a GIF with durations of 1000, 40, 40 and 40 ms
        ((0, 0.04, 0.08, 1.08), 25, 27),  # the last frame is shown for one second
        ((0, 0.08, 0.16, 0.2), 12.5, 3),  # every second frame of five: the last one has a full interval
        ((2.0, 2.5), 2, 1),
        ((0, 3.0, 6.0, 9.0), 1, 9),  # at least one frame per second
        ((0, 0.001, 0.002, 0.1), 120, 12),  # at most 120
        ((0, 0.1, 0.14, 0.18), 3 / 0.14, 4),  # no interval in the middle: a lost frame
    ],
)
def test_a_motion_at_a_constant_rate_has_the_duration_of_the_video(times_s, fps, frames):
    params, rate = motion(*times_s).resampled()
    assert len(params.betas) == frames
    assert frames / rate == pytest.approx(times_s[-1] - times_s[0], abs=0.6 / rate)
    assert rate == pytest.approx(fps)


def test_times_rounded_to_milliseconds_do_not_change_the_number_of_frames():
    """30000 / 1001 frames per second, as Matroska stores them."""
    times_s = [round(frame * 1.001 / 30, 3) for frame in range(1001)]
    recorded = Motion(random_params(1000, seed=1), tuple(times_s[:-1]), times_s[-1])
    params, rate = recorded.resampled()
    assert len(params.betas) == 1000
    assert rate == pytest.approx(30 / 1.001, rel=1e-4)


def test_evenly_spaced_poses_are_not_changed():
    recorded = motion(0.5, 0.54, 0.58, 0.62)
    params, _ = recorded.resampled()
    expected = recorded.params
    for ours, theirs in zip(
        (params.global_orient, params.body_pose), (expected.global_orient, expected.body_pose), strict=True
    ):
        ours, theirs = (Rotation.from_rotvec(x.reshape(-1, 3).numpy()).as_matrix() for x in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    torch.testing.assert_close(params.transl, expected.transl)


def test_rotations_are_interpolated_spherically_and_translations_linearly():
    recorded = motion(0, 1, 1.04, 1.08, 1.12)
    params, rate = recorded.resampled()
    times_s = np.minimum(np.arange(28) / rate, 1.08)
    for joint in range(23):
        keys = Rotation.from_rotvec(recorded.params.body_pose[:, joint].numpy())
        expected = Slerp(recorded.times_s, keys)(times_s)
        errors = (Rotation.from_rotvec(params.body_pose[:, joint].numpy()).inv() * expected).magnitude()
        assert errors.max() < 1e-3
    expected_m = [np.interp(times_s, recorded.times_s, x) for x in recorded.params.transl.T.numpy()]
    np.testing.assert_allclose(params.transl.T, expected_m, atol=1e-5)


def test_one_wrong_time_does_not_make_the_motion_arbitrarily_long():
    params, rate = motion(0, 0.04, 0.08, 1e6, 1e6 + 0.04).resampled()
    assert len(params.betas) <= 4 * MAX_SAMPLES_PER_POSE + 1
    assert len(params.betas) / rate == pytest.approx(1e6, rel=0.01)


def test_the_end_repeats_the_last_pose():
    recorded = motion(0, 0.5, 2.0)
    ended = recorded.with_end()
    assert ended.times_s == (0, 0.5, 2.0)
    assert isinstance(ended.params, BodyParams)
    torch.testing.assert_close(ended.params.body_pose[2], recorded.params.body_pose[1])


def jitter(params: BodyParams) -> float:
    """Mean angle between the rotations of successive poses."""
    first, second = params.body_pose[:-1].reshape(-1, 3), params.body_pose[1:].reshape(-1, 3)
    turns = Rotation.from_rotvec(first.numpy()).inv() * Rotation.from_rotvec(second.numpy())
    return float(turns.magnitude().mean())


def test_smoothing_keeps_a_steady_turn_and_removes_jitter():
    generator = torch.Generator().manual_seed(0)
    count, times_s = 60, tuple(0.04 * frame for frame in range(60))
    pose = torch.zeros(count, 23, 3)
    pose[..., 1] = torch.linspace(0, 1, count)[:, None]
    noise = 0.1 * torch.randn(count, 23, 3, generator=generator)
    steady, shaking = (
        Motion(
            BodyParams(torch.zeros(count, 3), body_pose, torch.zeros(count, 10), torch.zeros(count, 3)),
            times_s, 2.4,
        )
        for body_pose in (pose, pose + noise)
    )  # fmt: skip
    inner = slice(8, -8)  # at the ends the weights are one-sided
    torch.testing.assert_close(steady.smoothed(0.08).params.body_pose[inner], pose[inner], rtol=0, atol=1e-3)
    assert jitter(shaking.smoothed(0.08).params) < jitter(shaking.params) / 4
    assert (shaking.smoothed(0.08).params.body_pose - pose)[inner].std() < 0.05


def test_a_narrow_smoothing_changes_nothing():
    recorded = motion(0, 0.04, 0.08, 0.12)
    expected, found = recorded.params, recorded.smoothed(0.001).params
    for ours, theirs in zip(
        (found.global_orient, found.body_pose), (expected.global_orient, expected.body_pose), strict=True
    ):
        ours, theirs = (Rotation.from_rotvec(x.reshape(-1, 3).numpy()).as_matrix() for x in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
