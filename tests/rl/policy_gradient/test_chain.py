"""Steps of the chain are Gaussian, with the mean and the variance of diffusers' DDIM."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch.distributions import Normal, kl_divergence

from common.seeding import derive_generator
from hmr.policy.policy import DiffusionPolicy
from hmr.policy.scheduler import new_solver
from rl.policy_gradient.chain import (
    chain_steps,
    gaussian_kl,
    log_likelihood,
    sample_chains,
    step_means,
)
from tests.rl.policy_gradient.scenes import wild

STEPS = 5


def ddim(policy: DiffusionPolicy, steps: int) -> DDIMScheduler:
    solver = new_solver("ddim", policy.config.num_train_timesteps)
    solver.set_timesteps(steps, device=torch.device("cpu"))
    assert isinstance(solver, DDIMScheduler)
    return solver


def test_the_log_likelihood_is_that_of_a_normal_distribution_summed_over_the_parameters():
    generator = derive_generator("normal")
    value, mean = torch.randn(2, 4, 3, 157, generator=generator)
    std = torch.rand(4, 1, generator=generator) + 0.1
    expected = Normal(mean, std[..., None]).log_prob(value).sum(dim=-1)
    torch.testing.assert_close(log_likelihood(value, mean, std), expected)
    # at the mean of a standard normal distribution
    at_mean = log_likelihood(torch.zeros(1, 157), torch.zeros(1, 157), torch.ones(1))
    assert float(at_mean) == pytest.approx(-157 / 2 * math.log(2 * math.pi))


def test_the_divergence_is_that_of_normal_distributions():
    mean, reference = torch.randn(2, 6, 157, generator=derive_generator("kl"))
    std = torch.linspace(0.1, 2.0, 6)
    expected = kl_divergence(Normal(mean, std[:, None]), Normal(reference, std[:, None])).sum(dim=-1)
    torch.testing.assert_close(gaussian_kl(mean, reference, std), expected)


@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_the_variance_is_that_of_diffusers(tiny_policy: DiffusionPolicy, eta: float):
    solver, steps = ddim(tiny_policy, STEPS), chain_steps(tiny_policy, STEPS, eta)
    variances = [
        float(solver._get_variance(time, time - 1000 // STEPS)) for time in solver.timesteps.tolist()
    ]
    expected = eta * torch.tensor(variances).clamp_min(0).sqrt()
    torch.testing.assert_close(steps.std, expected, atol=1e-6, rtol=1e-4)
    assert steps.std[-1] == 0


@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_a_step_is_that_of_diffusers(tiny_policy: DiffusionPolicy, eta: float):
    solver, steps = ddim(tiny_policy, STEPS), chain_steps(tiny_policy, STEPS, eta)
    states, velocity, noise = torch.randn(3, 2, 3, STEPS, 157, generator=derive_generator("step"))
    means = steps.mean(states, velocity, torch.arange(STEPS).expand(2, -1))
    for number, time in enumerate(solver.timesteps.tolist()):
        one = (velocity[:, :, number], time, states[:, :, number])
        expected = solver.step(*one, eta=eta, variance_noise=noise[:, :, number], return_dict=False)[0]
        found = means[:, :, number] + steps.std[number] * noise[:, :, number]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_chains_without_noise_are_those_of_sampling(tiny_policy: DiffusionPolicy):
    """Nearly: eta cannot be 0. The policy's solver is DDIM, with four steps."""
    features = tiny_policy.encode(wild())
    steps = chain_steps(tiny_policy, 4, 1e-6)
    chains = sample_chains(tiny_policy, steps, features, 2, derive_generator("chains"))
    start = chains.states[:, :, 0]
    expected = tiny_policy._denoise(start, features.condition)
    torch.testing.assert_close(chains.x0, expected, atol=1e-3, rtol=1e-3)


def test_a_chain_holds_every_state_and_its_likelihood(tiny_policy: DiffusionPolicy):
    features, steps = tiny_policy.encode(wild()), chain_steps(tiny_policy, STEPS, 0.7)
    chains = sample_chains(tiny_policy, steps, features, 4, derive_generator("chains"))
    assert chains.states.shape == (3, 4, STEPS, 157)
    numbers = torch.arange(STEPS).expand(3, -1)
    means = step_means(tiny_policy, steps, chains.states, numbers, features.condition)
    torch.testing.assert_close(means[:, :, -1], chains.x0, atol=1e-4, rtol=1e-4)
    found = log_likelihood(chains.states[:, :, 1:], means[:, :, :-1], steps.std[:-1])
    torch.testing.assert_close(chains.log_likelihoods, found, atol=2e-3, rtol=1e-5)
    assert chains.states.std(dim=1).min() > 0  # no two chains of a group are the same


def test_a_chain_of_the_same_seed_is_the_same(tiny_policy: DiffusionPolicy):
    features, steps = tiny_policy.encode(wild()), chain_steps(tiny_policy, STEPS, 1.0)
    first, again, other = (
        sample_chains(tiny_policy, steps, features, 2, derive_generator("chains", key)) for key in (0, 0, 1)
    )
    assert torch.equal(first.states, again.states)
    assert not torch.equal(first.states, other.states)


def test_more_steps_than_times_are_refused(tiny_policy: DiffusionPolicy):
    with pytest.raises(ValueError, match=r"steps must be at most 1000.*not 1001"):
        chain_steps(tiny_policy, 1001, 1.0)


@pytest.mark.parametrize(("name", "value"), [("start", "distribution"), ("alignment", 0.5)])
def test_a_sampler_with_another_chain_is_refused(tiny_policy: DiffusionPolicy, name, value):
    setattr(tiny_policy.config, name, value)
    with pytest.raises(ValueError, match="needs the sampler's start unit and its alignment 0"):
        chain_steps(tiny_policy, 4, 1.0)
