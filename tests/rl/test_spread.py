"""The penalty on lost spread, and the measurement of the spread of samples."""

import math

import numpy as np
import pytest
import torch

from hmr.policy.parametrization import VECTOR_SIZE
from hmr.types import JOINT_NAMES, Box, Camera, Detection, Sample
from rl.monitoring.spread_callback import SpreadMonitor, estimated_visibility
from rl.spread import X0Prediction, lost_spread, spread_ratio
from rl.trainer import align
from tests.rl.test_trainer import config
from tests.rl.toy import DIM, ToyPolicy, toy_groups


def query(groups, time=60):
    noise = torch.randn(len(groups), 1, DIM, generator=torch.Generator().manual_seed(1))
    return groups.condition, groups.x0, torch.full((len(groups), 1), time), noise


def test_the_spread_of_predictions_follows_the_std_of_the_policy():
    groups, asked = toy_groups(), None
    asked = query(groups)
    wide, narrow = (X0Prediction(ToyPolicy(std))(*asked) for std in (0.5, 0.25))
    kept = spread_ratio(narrow, wide)
    # gain = a s^2 / (a^2 s^2 + 1 - a^2) at a = cos(60.5 / 100 * pi / 2): a^2 = .338092
    abar = math.cos(60.5 / 100 * math.pi / 2) ** 2
    gains = [var / (abar * var + 1 - abar) for var in (0.0625, 0.25)]
    torch.testing.assert_close(kept, torch.full_like(kept, gains[0] / gains[1]))
    assert lost_spread(kept, 1.0).item() == pytest.approx(1 - gains[0] / gains[1], abs=1e-6)


def test_a_group_without_spread_has_a_finite_gradient():
    """Of the whole batch: one collapsed group would otherwise stop the training that is to widen it."""
    base = torch.randn(2, 4, 1, DIM, generator=torch.Generator().manual_seed(2))
    base[0] = base[0, :1]
    predicted = base.clone().requires_grad_()
    lost_spread(spread_ratio(predicted, base.flip(0)), 1.0).backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


def test_nothing_is_lost_at_the_reference_nor_above_the_floor():
    asked = query(toy_groups())
    same, wider = (X0Prediction(ToyPolicy(std))(*asked) for std in (0.5, 0.7))
    assert lost_spread(spread_ratio(same, same), 1.0) == 0
    assert lost_spread(spread_ratio(wider, same), 1.0) == 0
    assert lost_spread(spread_ratio(same, wider), 0.1) == 0


def test_its_gradient_widens():
    policy, asked = ToyPolicy(0.3), query(toy_groups())
    before = X0Prediction(ToyPolicy(0.5))(*asked).detach()
    lost_spread(spread_ratio(X0Prediction(policy)(*asked), before), 1.0).backward()
    assert policy.denoiser.log_std.grad < 0
    assert policy.denoiser.mean.bias.grad.abs().max() < 1e-5  # the mean does not matter


@pytest.mark.slow
def test_alignment_with_the_penalty_moves_as_far_and_keeps_more_spread(tmp_path):
    groups = toy_groups()
    free, penalised = (
        align(ToyPolicy(), groups, config(tmp_path, max_steps=80, loss_type="weighted", spread_weight=weight))
        for weight in (0.0, 10.0)
    )
    assert free.denoiser.log_std.exp() < 0.45
    assert penalised.denoiser.log_std.exp() > 0.48
    assert penalised.expected_reward(groups.condition) > -0.75 + 0.1  # the base's is -.75


def test_a_policy_without_predictions_is_refused(tmp_path):
    with pytest.raises(ValueError, match="noisy_and_target"):
        X0Prediction(torch.nn.Linear(1, 1))


def test_the_condition_holds_the_visibility_of_the_joints(tiny_policy):
    visibility = torch.rand(5, 24, generator=torch.Generator().manual_seed(0))
    boxes = [Box(0.0, 0.0, 50.0, 80.0)] * 5
    detections = [
        Detection.from_points(JOINT_NAMES, torch.ones(24, 2), torch.ones(24), row) for row in visibility
    ]
    samples = [Sample("a", np.zeros((80, 60, 3), np.uint8), box, Camera.estimate(60, 80)) for box in boxes]
    visible = estimated_visibility(tiny_policy.encode(samples, detections).condition)
    assert torch.equal(visible, visibility > 0.5)


def test_the_spread_of_visible_and_of_occluded_joints_is_measured(tiny_policy):
    from hmr.policy.policy import Features

    condition = torch.randn(3, tiny_policy.feature_size + VECTOR_SIZE)
    geometry = torch.tensor([[100.0, 50.0, 50.0, 100.0, 100.0, 50.0, 50.0, 80.0]]).expand(3, -1)
    monitor = SpreadMonitor(tiny_policy, Features(condition, geometry), num_samples=4, seed=0)
    first, again = monitor.measure(), monitor.measure()
    assert first == again
    assert first["spread_visible_mm"] > 0
    monitor.visible[:] = True
    assert monitor.measure()["spread_occluded_mm"].isnan()


def test_the_spread_is_that_of_the_body_of_the_policy(tiny_policy, monkeypatch):
    """The same hypotheses on a body of twice the size."""
    from hmr.policy.policy import Features

    condition = torch.randn(2, tiny_policy.feature_size + VECTOR_SIZE)
    geometry = torch.tensor([[100.0, 50.0, 50.0, 100.0, 100.0, 50.0, 50.0, 80.0]]).expand(2, -1)
    features = Features(condition, geometry)
    groups = tiny_policy.sample(features, 4, torch.Generator().manual_seed(0))
    monkeypatch.setattr(tiny_policy, "sample", lambda *_: groups)
    monitor = SpreadMonitor(tiny_policy, features, num_samples=4, seed=0)
    monitor.visible[:] = True
    usual_mm = monitor.measure()["spread_visible_mm"]
    tiny_policy.feedback.points.joint_template.mul_(2)
    tiny_policy.feedback.points.joint_shapedirs.mul_(2)
    assert usual_mm > 0
    assert monitor.measure()["spread_visible_mm"] == pytest.approx(float(2 * usual_mm), rel=1e-4)
