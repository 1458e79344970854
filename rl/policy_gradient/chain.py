"""The denoising chain as a sequence of Gaussian decisions, whose likelihoods can be computed exactly.

| name           | symbol      | equation                                                                       |
|----------------|-------------|--------------------------------------------------------------------------------|
| abar, after    | abar, abar' | cumulative alpha at the time of a state and at that of the next state          |
| std            | sigma       | eta sqrt((1 - abar') / (1 - abar) (1 - abar / abar')), diffusers' DDIM         |
| x0, noise      | x_0, eps    | both of v_theta(x_t), by its definition in `hmr.policy.policy`                 |
| mean           | mu_theta    | sqrt(abar') x_0 + sqrt(1 - abar' - sigma^2) eps                                |
| log_likelihood |             | log N(x_t'; mu_theta, sigma^2 I), summed over the parameters                   |
| gaussian_kl    |             | |mu - mu_ref|^2 / (2 sigma^2), exact because the variances are equal           |

These are stochastic DDIM steps (Song et al., ICLR 2021, arXiv 2010.02502): eta 1 is DDPM, eta 0 the deterministic chain
of `DiffusionPolicy.sample`, which has no likelihood. The last step ends at abar' = 1, adds no noise and is no decision;
a chain of n steps has n - 1. The times are those of the policy's own solver with as many steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hmr.policy.config import SamplingSettings
from hmr.policy.parametrization import VECTOR_SIZE
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.policy.scheduler import new_solver

__all__ = ["Chains", "Steps", "chain_steps", "gaussian_kl", "log_likelihood", "sample_chains", "step_means"]


@dataclass(frozen=True)
class Steps:
    """Times and coefficients of the steps of a chain, in order."""

    timesteps: Int[Tensor, " steps"]
    abar: Float[Tensor, " steps"]
    after: Float[Tensor, " steps"]
    std: Float[Tensor, " steps"]

    def __len__(self) -> int:
        return len(self.timesteps)

    def mean(
        self,
        noisy: Float[Tensor, "batch group steps dim"],
        velocity: Float[Tensor, "batch group steps dim"],
        numbers: Int[Tensor, "batch steps"],
    ) -> Float[Tensor, "batch group steps dim"]:
        """The means of the next states. `numbers` says which step of the chain each state is at."""
        abar, after, std = (row[numbers][:, None, :, None] for row in (self.abar, self.after, self.std))
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        x0, noise = alpha * noisy - sigma * velocity, alpha * velocity + sigma * noisy
        return after.sqrt() * x0 + (1 - after - std.square()).clamp_min(0).sqrt() * noise


@dataclass(frozen=True)
class Chains:
    """G chains per image. `states` has the state before each step; all but the first were decisions, of which
    `log_likelihoods` are under the policy that sampled them."""

    states: Float[Tensor, "images group steps dim"]
    log_likelihoods: Float[Tensor, "images group decisions"]
    x0: Float[Tensor, "images group dim"]


def chain_steps(policy: DiffusionPolicy, count: int, eta: float) -> Steps:
    """Raises ValueError for more steps than the policy's diffusion has times, and for a policy whose sampler does not
    start from unit noise or aligns its predictions: the likelihoods would be those of another sampler."""
    settings = SamplingSettings.of(policy.config)
    if settings.start != "unit" or settings.alignment:
        raise ValueError(
            "a policy gradient needs the sampler's start unit and its alignment 0, not "
            f"{settings.start} and {settings.alignment:g}"
        )
    length = policy.config.num_train_timesteps
    if count > length:
        raise ValueError(f"steps must be at most {length}, the times of the policy's diffusion, not {count}")
    solver = new_solver("ddim", length)
    solver.set_timesteps(count, device=torch.device("cpu"))
    abar = solver.alphas_cumprod[solver.timesteps]
    after = torch.cat([abar[1:], torch.ones(1)])
    std = eta * ((1 - after) / (1 - abar) * (1 - abar / after)).clamp_min(0).sqrt()
    return Steps(*(row.to(policy.device) for row in (solver.timesteps, abar, after, std)))


def step_means(
    policy: DiffusionPolicy,
    steps: Steps,
    states: Float[Tensor, "batch group steps dim"],
    numbers: Int[Tensor, "batch steps"],
    condition: Float[Tensor, "batch channels"],
) -> Float[Tensor, "batch group steps dim"]:
    """The means of the next states under the policy."""
    velocity = policy.predict(states, steps.timesteps[numbers], condition).float()
    return steps.mean(states, velocity, numbers)


@torch.no_grad()
def sample_chains(
    policy: DiffusionPolicy, steps: Steps, features: Features, group_size: int, generator: torch.Generator
) -> Chains:
    """Chains of all images at once. Every chain starts from noise, also the first of a group."""
    shape = (len(steps), len(features), group_size, VECTOR_SIZE)
    noise = torch.randn(shape, generator=generator).to(policy.device)
    state = noise[0] * policy.config.noise_temperature
    states, likelihoods = [], []
    for number in range(len(steps)):
        states.append(state)
        numbers = torch.full((len(features), 1), number, device=policy.device)
        mean = step_means(policy, steps, state[:, :, None], numbers, features.condition)[:, :, 0]
        if number == len(steps) - 1:
            return Chains(torch.stack(states, dim=2), torch.stack(likelihoods, dim=2), mean)
        state = mean + steps.std[number] * noise[number + 1]
        likelihoods.append(log_likelihood(state, mean, steps.std[number]))
    raise AssertionError("a chain has at least one step")


def log_likelihood(
    value: Float[Tensor, "*batch dim"], mean: Float[Tensor, "*batch dim"], std: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch"]:
    """log N(value; mean, std^2 I)."""
    squared = ((value - mean) / std[..., None]).square().sum(dim=-1)
    return -0.5 * squared - value.shape[-1] * (std.log() + 0.5 * math.log(2 * math.pi))


def gaussian_kl(
    mean: Float[Tensor, "*batch dim"], reference: Float[Tensor, "*batch dim"], std: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch"]:
    """KL(N(mean, std^2 I) || N(reference, std^2 I))."""
    return 0.5 * ((mean - reference) / std[..., None]).square().sum(dim=-1)
