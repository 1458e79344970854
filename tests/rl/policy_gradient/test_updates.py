"""One update: PPO's objective, what learns, and what does not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hmr.policy.policy import DiffusionPolicy, Features
from rl.advantages import advantages_of
from rl.policy_gradient.chain import Chains, log_likelihood, step_means
from rl.policy_gradient.checkpoint import resume, save_checkpoint
from rl.policy_gradient.updates import PolicyGradient, clipped_surrogate
from tests.rl.policy_gradient.scenes import SETTINGS, wild

GROUP = 4
LONG = dataclasses.replace(SETTINGS, group_size=GROUP, steps=5, inner_epochs=1, minibatches=1)


def begin(policy: DiffusionPolicy, **changes) -> tuple[PolicyGradient, Features, Chains]:
    run = PolicyGradient(policy, dataclasses.replace(LONG, **changes), seed=0)
    features = run.policy.encode(wild())
    return run, features, run.sample(features, 0)


def advantages_of_first() -> tuple[torch.Tensor, torch.Tensor]:
    """The first hypothesis of each group is better than the others, and the last has no score."""
    advantages = torch.tensor([1.5, -0.5, -1.0, 0.0]).repeat(3, 1)
    return advantages, torch.tensor([True, True, True, False]).repeat(3, 1)


def log_likelihoods(run: PolicyGradient, features: Features, chains: Chains) -> torch.Tensor:
    """Of the decisions of the chains under the present weights."""
    numbers = torch.arange(4).expand(3, -1)
    condition = run.policy.refreshed(features).condition
    with torch.no_grad():
        means = step_means(run.policy, run.steps, chains.states[:, :, :-1], numbers, condition)
    return log_likelihood(chains.states[:, :, 1:], means, run.steps.std[:-1])


@pytest.mark.parametrize("train_estimate", [False, True])
def test_the_ratio_is_one_and_nothing_is_clipped_before_the_first_step(tiny_policy, train_estimate):
    run, features, chains = begin(tiny_policy, train_estimate=train_estimate)
    metrics = run.update(features, chains, *advantages_of_first(), 0)
    assert metrics["ratio/mean"] == pytest.approx(1, abs=1e-4)  # up to the rounding of other batch shapes
    assert metrics["ratio/std"] == pytest.approx(0, abs=1e-3)
    assert metrics["clip_ratio/region_mean"] == 0
    assert metrics["kl"] == pytest.approx(0, abs=1e-6)


def test_an_update_makes_better_chains_more_likely_and_worse_ones_less(tiny_policy):
    run, features, chains = begin(tiny_policy, inner_epochs=4, minibatches=2)
    run.update(features, chains, *advantages_of_first(), 0)
    change = (log_likelihoods(run, features, chains) - chains.log_likelihoods).mean(dim=(0, 2))
    assert change[0] > 0 > change[2]


def test_an_update_stops_at_the_first_weight_that_is_not_finite(tiny_policy):
    run, features, chains = begin(tiny_policy, learning_rate=1e30, inner_epochs=4)
    with pytest.raises(
        ValueError, match=r"training has stopped after step [12] .* not finite numbers, first in"
    ):
        run.update(features, chains, *advantages_of_first(), 0)


@pytest.mark.parametrize("train_estimate", [False, True])
def test_the_mean_reward_rises(tiny_policy, train_estimate):
    """The reward is the distance of one entry of x_0 from a target."""
    run, features, _ = begin(
        tiny_policy, group_size=24, learning_rate=3e-3, minibatches=2, train_estimate=train_estimate
    )
    rewards = []
    for number in range(10):
        features = run.policy.refreshed(features)
        chains = run.sample(features, number)
        reward = -(chains.x0[..., 7] - 3.0).abs()
        rewards.append(float(reward.mean()))
        run.update(features, chains, *advantages_of(reward.tolist(), chains.x0), number)
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.7, rewards


def test_hypotheses_without_a_score_have_no_gradient(tiny_policy):
    """Whatever their states, the weights after the update are the same."""
    after = []
    for scale in (1.0, 1e4):
        run, features, chains = begin(tiny_policy)
        states = chains.states.clone()
        states[:, -1, 1:] *= scale
        run.update(features, dataclasses.replace(chains, states=states), *advantages_of_first(), 0)
        after.append(torch.cat([tensor.flatten() for tensor in run.weights.live.values()]))
    assert torch.equal(*after)
    assert after[0].isfinite().all()


def test_without_any_score_nothing_changes(tiny_policy):
    run, features, chains = begin(tiny_policy)
    before = {name: tensor.detach().clone() for name, tensor in run.weights.live.items()}
    nothing = torch.zeros(3, GROUP)
    assert run.update(features, chains, nothing, nothing.bool(), 0) == {}
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.weights.live.items())


@pytest.mark.parametrize("train_estimate", [False, True])
def test_the_initial_estimate_learns_if_asked_to(tiny_policy, train_estimate):
    run, features, chains = begin(tiny_policy, train_estimate=train_estimate)
    before = tiny_policy.initial_estimate(features.condition[:, : tiny_policy.feature_size])
    run.update(features, chains, *advantages_of_first(), 0)
    after = run.policy.initial_estimate(features.condition[:, : tiny_policy.feature_size])
    assert torch.equal(before, after) is not train_estimate


def test_the_given_policy_does_not_change(tiny_policy):
    before = tiny_policy.digest()
    run, features, chains = begin(tiny_policy)
    run.update(features, chains, *advantages_of_first(), 0)
    assert tiny_policy.digest() == before != run.policy.digest()


def test_the_divergence_from_the_first_policy_is_held_by_its_weight(tiny_policy):
    kl = {}
    for weight in (0.0, 100.0):
        run, features, chains = begin(tiny_policy, kl_weight=weight, inner_epochs=8)
        run.update(features, chains, *advantages_of_first(), 0)
        kl[weight] = run.update(features, chains, *advantages_of_first(), 1)["kl"]
    assert kl[0.0] > 2 * kl[100.0] > 0


def test_the_surrogate_is_clipped_only_where_the_ratio_has_moved_far_enough():
    ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1]).requires_grad_()
    surrogate = clipped_surrogate(ratio, torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]), 0.2)
    torch.testing.assert_close(surrogate, torch.tensor([1.2, -1.5, 0.5, -0.8, 1.1]))
    surrogate.sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.tolist() == [0.0, -1.0, 1.0, 0.0, 1.0]


def test_a_saved_run_continues_as_if_it_had_not_been_saved(tiny_policy, tmp_path):
    run, features, chains = begin(tiny_policy)
    log = [{"step": 1, **run.update(features, chains, *advantages_of_first(), 0)}]
    save_checkpoint(run, log, tmp_path)
    (tmp_path / "checkpoint-2.partial").mkdir()  # a kill during the next save
    other, _, _ = begin(tiny_policy)
    assert resume(other, tmp_path) == log
    for each in (run, other):
        chains = each.sample(features, 1)
        each.update(features, chains, *advantages_of_first(), 1)
    state = other.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in run.state_dict().items())
