"""Laws of the start from the initial estimate's distribution, and of the alignment with the detection's."""

import math

import numpy as np
import pytest
import torch

from hmr.policy.condition import DEPTH_FLOOR_M, FLOOR, PointEstimates, unpack_points
from hmr.policy.config import SamplingSettings
from hmr.policy.distribution_alignment import (
    DistributionAlignment,
    StandardisedBody,
    draw_targets,
    start_from_estimate,
)
from hmr.policy.policy import DiffusionPolicy, Features, Guidance
from hmr.policy.scheduler import SOLVERS, new_solver, set_times
from hmr.types import Box, Camera, Sample


@pytest.fixture
def features(tiny_policy: DiffusionPolicy) -> Features:
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    boxes, camera = [Box(10.0, 5.0, 70.0, 85.0), Box(-20.0, 0.0, 60.0, 90.0)], Camera.estimate(120, 90)
    return tiny_policy.encode([Sample("x", image, box, camera) for box in boxes])


def sampled(policy: DiffusionPolicy, features: Features, **settings: object) -> torch.Tensor:
    for name, value in settings.items():
        setattr(policy.config, name, value)
    groups = policy.sample(features, 3, torch.Generator().manual_seed(0))
    return torch.stack([torch.cat([x.flatten(1) for x in vars(g.params).values()], 1) for g in groups])


# -- the start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_an_estimate_of_zero_with_unit_deviation_is_the_unit_start_bit_for_bit(tiny_policy, features, solver):
    features = Features(features.condition.clone(), features.geometry)
    features.condition[:, -157:] = 0
    tiny_policy.initial_std.fill_(1.0)
    unit = sampled(tiny_policy, features, solver=solver)
    shaped = sampled(tiny_policy, features, start="distribution", start_time=1.0)
    assert torch.equal(unit, shaped)


def test_at_the_end_of_the_schedule_of_ddim_every_distribution_is_unit_noise(tiny_policy, features):
    """No signal is left there, so that nothing of the estimate can show."""
    unit = sampled(tiny_policy, features)
    assert torch.equal(unit, sampled(tiny_policy, features, start="distribution", start_time=1.0))
    assert not torch.equal(unit, sampled(tiny_policy, features, start_time=0.5))


def test_the_start_has_the_moments_of_a_noisy_gaussian():
    """abar .36: a = .6, s = .8; mean .6 x 2 = 1.2; variance .36 x .25 + .64 = .73."""
    noise = torch.randn(1, 200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = start_from_estimate(
        noise, torch.tensor([[2.0]]).double(), torch.tensor([0.5]).double(), torch.tensor(0.36).double()
    )
    assert start.mean().item() == pytest.approx(1.2, abs=0.01)
    assert start.var().item() == pytest.approx(0.73, rel=0.01)
    zero = start_from_estimate(
        torch.zeros(1, 1, 1), torch.full((1, 1), 2.0), torch.ones(1), torch.tensor(0.36)
    )
    assert zero.item() == pytest.approx(1.2)


def test_where_the_policy_is_gaussian_the_start_skips_steps_without_an_error(tiny_policy, features):
    """A denoiser that predicts zero samples N(g, r^2), where hypothesis m is g + r z_m. 250 steps from unit noise come
    near it; 20 steps over the last tenth of the schedule come nearer, because the rest of the way is exact."""
    tiny_policy.denoiser.reset_head()
    tiny_policy.initial_std.fill_(0.4)
    noise = torch.randn(2, 3, 157, generator=torch.Generator().manual_seed(0))
    noise[:, 0] = 0
    exact = features.condition[:, None, -157:] + 0.4 * noise

    def error(**settings: object) -> float:
        for name, value in settings.items():
            setattr(tiny_policy.config, name, value)
        return (tiny_policy._denoise(noise, features.condition) - exact).abs().max().item()

    many = error(num_inference_steps=250)
    few = error(num_inference_steps=20, start="distribution", start_time=0.1)
    assert few < many < 0.1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("steps", "start_time", "first"), [(4, 1.0, 999), (4, 0.5, 499), (1, 0.5, 499), (2, 0.2, 199)]
)
def test_steps_from_a_time(solver, steps, start_time, first):
    times = set_times(new_solver(solver, 1000), steps, start_time, torch.device("cpu"))
    assert len(times) == steps
    assert times[0] == first
    assert times == sorted(times, reverse=True)


def test_steps_shorter_than_the_schedule_has_times_are_refused():
    with pytest.raises(ValueError, match="shorter than 1 of the schedule's 1000 times"):
        set_times(new_solver("ddim", 1000), 100, 0.05, torch.device("cpu"))


# -- the alignment ---------------------------------------------------------------------------------------------


def alignment(
    policy: DiffusionPolicy, features: Features, x0: torch.Tensor, strength: float = 1.0
) -> DistributionAlignment:
    """Towards the points of `x0` themselves, all observed with the same certainty."""
    body = StandardisedBody(policy.feedback.points, policy.mean, policy.std, features.geometry)
    ones = torch.ones(len(features), 41)
    observed = PointEstimates(torch.zeros(len(features), 41, 2), ones, ones, 0 * ones, ones)
    return DistributionAlignment(
        body, observed, policy.initial_std, body.observe(x0), strength=strength, steps=4
    )


@pytest.fixture
def x0() -> torch.Tensor:
    return 0.3 * torch.randn(2, 3, 157, generator=torch.Generator().manual_seed(0))


def test_it_is_a_guidance(tiny_policy, features, x0):
    assert isinstance(alignment(tiny_policy, features, x0), Guidance)


def test_no_strength_is_no_alignment_bit_for_bit(tiny_policy, features, x0):
    assert torch.equal(alignment(tiny_policy, features, x0 + 0.2, 0.0).guide(x0, 3), x0)
    without = sampled(tiny_policy, features)
    assert torch.equal(without, sampled(tiny_policy, features, alignment=0.0))
    assert not torch.equal(without, sampled(tiny_policy, features, alignment=1.0))


def test_a_step_closes_a_part_of_the_gap(tiny_policy, features, x0):
    """Far away f is not linear: some of the whole steps would lead farther away, and are not taken."""
    shift = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    far, near = (alignment(tiny_policy, features, x0 + scale * shift) for scale in (0.5, 0.2))
    assert far.gap(x0).min() > 1
    assert (far.gap(far.guide(x0, 3)) <= far.gap(x0)).all()
    stayed = (far.guide(x0, 3) == x0).all(dim=-1)
    assert 0 < stayed.sum() < stayed.numel()
    active = near.gap(x0) > 1
    assert active.sum() > 3
    assert (near.gap(near.guide(x0, 3)) < near.gap(x0))[active].all()


def test_a_hypothesis_in_agreement_and_the_second_half_of_the_steps_stay(tiny_policy, features, x0):
    near = alignment(tiny_policy, features, x0 + 1e-4)
    assert 0 < near.gap(x0).min() < near.gap(x0).max() < 1
    assert torch.equal(near.guide(x0, 3), x0)
    far = alignment(tiny_policy, features, x0 + 0.2)
    moved = [not torch.equal(far.guide(x0, left), x0) for left in (3, 2, 1, 0)]
    assert moved == [True, True, False, False]


def test_the_gap_by_hand(tiny_policy, features, x0):
    """Every point is .1 crop units right of its target, which is two floors: of the three coordinates of a point one
    has a squared deviation of 4."""
    aligned = alignment(tiny_policy, features, x0)
    aligned.position = aligned.position + torch.tensor([2 * FLOOR, 0.0])
    torch.testing.assert_close(aligned.gap(x0), torch.full((2, 3), 4 / 3), atol=1e-3, rtol=1e-3)


def test_bodies_are_observed_as_the_camera_sees_them(tiny_policy, body, features, x0):
    observer = StandardisedBody(
        tiny_policy.feedback.points, tiny_policy.mean, tiny_policy.std, features.geometry
    )
    position, depth_m = observer.observe(x0)
    params = tiny_policy.from_x0(x0, features)
    for index, row in enumerate(features.geometry):
        joints_m = body.joints(params[index])
        pixels = Camera(*row[:3].tolist(), 120, 90).project(joints_m)
        expected = (pixels - row[5:7]) * 2 / row[7]
        torch.testing.assert_close(position[index, :, :24], expected, atol=1e-3, rtol=1e-3)
        expected_m = joints_m[..., 2] - joints_m[..., :1, 2]
        torch.testing.assert_close(depth_m[index, :, :24], expected_m, atol=1e-4, rtol=1e-4)


def test_targets_have_the_detections_own_deviations_and_the_first_is_the_detection():
    sigma = torch.full((1, 41), 0.1)
    sigma[:, 7] = math.inf
    observed = PointEstimates.from_sigma(
        torch.full((1, 41, 2), 0.3),
        sigma,
        torch.ones(1, 41),
        torch.full((1, 41), 0.2),
        0.2 * torch.ones(1, 41),
    )
    position, depth_m = draw_targets(observed, 20_000, torch.Generator().manual_seed(0))
    assert torch.equal(position[:, 0], observed.position)
    assert torch.equal(depth_m[:, 0], observed.depth_m)
    assert torch.equal(position[:, :, 7], torch.zeros(1, 20_000, 2))
    assert position[0, :, 3].std(dim=0).tolist() == pytest.approx([0.1, 0.1], rel=0.03)
    assert position[0, :, 3].mean(dim=0).tolist() == pytest.approx([0.3, 0.3], abs=0.01)
    assert depth_m[0, :, 3].std().item() == pytest.approx(0.2, rel=0.03)
    assert DEPTH_FLOOR_M < 0.2  # the floor is no part of the deviation


def test_what_is_not_observed_has_no_target(tiny_policy, features, x0):
    observed = unpack_points(features.condition)
    nothing = PointEstimates(*(0 * part for part in vars(observed).values()))
    body = StandardisedBody(tiny_policy.feedback.points, tiny_policy.mean, tiny_policy.std, features.geometry)
    targets = draw_targets(nothing, 3, torch.Generator().manual_seed(0))
    blind = DistributionAlignment(body, nothing, tiny_policy.initial_std, targets, strength=1.0, steps=4)
    assert torch.equal(blind.guide(x0, 3), x0)


# -- settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("start", "heatmap", "start is one of unit, distribution, not 'heatmap'"),
        ("solver", "euler", "solver is one of ddim, dpm++, not 'euler'"),
        ("start_time", 0.0, "start_time must be from 0.001 to 1, not 0.0"),
        ("start_time", float("nan"), "start_time must be from 0.001 to 1, not nan"),
        ("alignment", 1.5, "alignment must be from 0 to 1, not 1.5"),
        ("num_inference_steps", 0, "num_inference_steps must be from 1 to 1000, not 0"),
        ("noise_temperature", -1.0, "noise_temperature must be from 0 to 10, not -1.0"),
    ],
)
def test_settings_that_are_not_allowed_are_refused(tiny_policy, features, name, value, message):
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        sampled(tiny_policy, features, **{name: value})


def test_settings_are_part_of_the_digest_and_the_defaults_are_not(tiny_policy):
    before = tiny_policy.digest()
    own = SamplingSettings.of(tiny_policy.config)
    own.apply_to(tiny_policy.config)
    assert tiny_policy.digest() == before
    tiny_policy.config.start = "distribution"
    shaped = tiny_policy.digest()
    tiny_policy.config.alignment = 0.5
    assert len({before, shaped, tiny_policy.digest()}) == 3
