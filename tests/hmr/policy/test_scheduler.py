"""The solvers: one schedule that ends in noise, and two ways back that agree."""

import pytest
import torch

from hmr.policy.policy import DiffusionPolicy, Features
from hmr.policy.scheduler import SOLVERS, new_solver
from hmr.types import Hypotheses

# diffusers makes an array of a tensor in a way that numpy will change


@pytest.fixture(params=SOLVERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def walk_gaussian(name: str, steps: int, start: torch.Tensor, std: float) -> torch.Tensor:
    """Solve back with the exact v of x_0 ~ N(0, std^2), for which every step is known in closed form."""
    solver = new_solver(name, 1000)
    solver.set_timesteps(steps, device=torch.device("cpu"))
    noisy = start
    for timestep in solver.timesteps.tolist():
        abar = float(solver.alphas_cumprod[timestep])
        variance = abar * std**2 + 1 - abar
        # E[x_0 | x_t] = sqrt(abar) std^2 x_t / variance, E[eps | x_t] = sqrt(1 - abar) x_t / variance
        x0, eps = abar**0.5 * std**2 * noisy / variance, (1 - abar) ** 0.5 * noisy / variance
        noisy = solver.step(abar**0.5 * eps - (1 - abar) ** 0.5 * x0, timestep, noisy, return_dict=False)[0]
    return noisy


def test_the_schedule_begins_in_pure_noise_and_ends_in_none(name: str):
    """abar is the signal's share: signal to noise is abar / (1 - abar)."""
    solver = new_solver(name, 1000)
    alphas = solver.alphas_cumprod
    assert float(alphas[-1] / (1 - alphas[-1])) < 1e-6
    assert float(alphas[0]) > 0.99
    solver.set_timesteps(6, device=torch.device("cpu"))
    assert int(solver.timesteps[0]) == 999  # sampling begins where the signal is zero


@pytest.mark.parametrize("steps", [1, 4, 6, 10, 20, 50])
def test_no_number_of_steps_divides_by_zero(name: str, steps: int):
    """At the first step sigma / alpha is (nearly) infinite, at the last sigma is zero."""
    end = walk_gaussian(name, steps, torch.linspace(-3, 3, 7)[None, None], 0.5)
    assert end.isfinite().all()


def test_a_gaussian_comes_back_with_its_own_deviation(name: str):
    """The probability flow of a Gaussian scales noise by std; in many steps both solvers find that."""
    start = torch.linspace(-3, 3, 7)[None, None]
    torch.testing.assert_close(walk_gaussian(name, 200, start, 0.5), 0.5 * start, atol=0.03, rtol=0)


def test_the_second_order_is_nearer_in_as_few_steps():
    start = torch.ones(1, 1, 1)
    far, near = (abs(float(walk_gaussian(name, 8, start, 0.5)) - 0.5) for name in ("ddim", "dpm++"))
    assert near < 0.5 * far


def sampled(policy: DiffusionPolicy, solver: str, steps: int, seed: int = 0) -> Hypotheses:
    policy.config.solver, policy.config.num_inference_steps = solver, steps
    size = policy.feature_size + 157
    features = Features(
        torch.linspace(-1, 1, size)[None], torch.tensor([[300.0, 60, 45, 120, 90, 60, 45, 80]])
    )
    return policy.sample(features, 8, torch.Generator().manual_seed(seed))[0]


def test_a_policy_samples_as_in_many_steps(tiny_policy: DiffusionPolicy, name: str):
    """From the same noise, against many steps of DDIM."""
    exact, few = sampled(tiny_policy, "ddim", 100), sampled(tiny_policy, name, 10)
    torch.testing.assert_close(few.params.betas, exact.params.betas, atol=0.1, rtol=0)


def test_hypothesis_zero_has_no_noise(tiny_policy: DiffusionPolicy, name: str):
    one, two = (sampled(tiny_policy, name, 6, seed).params.betas for seed in (1, 2))
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])


def test_an_unknown_solver_is_named():
    with pytest.raises(ValueError, match="euler"):
        new_solver("euler", 1000)
