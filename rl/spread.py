"""The spread of a group in the policy's predictions relative to the reference, and a penalty on its loss.

| here        | symbol  | equation                                                                             |
|-------------|---------|--------------------------------------------------------------------------------------|
| predicted   | g_i     | the policy's estimate of x_0 from x_t^i at a high t; t and eps shared by the group   |
| variance    | V       | mean over parameters of the variance of g_i over the group                           |
| ratio       | k       | sqrt(V_theta / V_ref)                                                                |
| penalty     |         | mean over images of max(0, floor - k)                                                |

Why predictions show the spread of samples: a policy whose distribution for an image is N(mu, sigma^2) predicts
g_i = mu + a sigma^2 / (a^2 sigma^2 + s^2) (x_t^i - a mu), so for a group that shares its noise the spread of the
predictions grows with sigma. A policy whose distribution has narrowed predicts nearly the same x_0 for all of them,
which its denoising errors on good hypotheses do not show. Nothing is sampled; the cost is one more forward pass per
step. It is an entropy bonus (Williams and Peng, Connection Science 1991) computed from the variance.

Limitation: a policy that has memorised a few groups distinguishes their hypotheses and still samples narrowly. In 80
steps on 16 images k stayed above 1 while the spread of samples fell; `rl.monitoring.spread_callback` measures samples.

Left out: a floor per joint; the mean over parameters is one of standardised parameters.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["HIGH_NOISE", "PredictsVelocity", "X0Prediction", "lost_spread", "spread_ratio"]

# shares of the diffusion's length: below, x_t determines x_0; above, x_t of all hypotheses is nearly the same
HIGH_NOISE = (0.5, 0.9)
NO_VARIANCE = 1e-12  # of standardised parameters


@runtime_checkable
class PredictsVelocity(Protocol):
    """The methods of `hmr.policy.policy.DiffusionPolicy` that predictions need."""

    def noisy_and_target(
        self,
        x0: Float[Tensor, "batch group dim"],
        timesteps: Int[Tensor, "batch steps"],
        noise: Float[Tensor, "batch steps dim"],
    ) -> tuple[Float[Tensor, "batch group steps dim"], Float[Tensor, "batch group steps dim"]]: ...

    def alpha_sigma(
        self, timesteps: Int[Tensor, "batch steps"]
    ) -> tuple[Float[Tensor, "batch 1 steps 1"], Float[Tensor, "batch 1 steps 1"]]: ...

    def predict(
        self,
        noisy: Float[Tensor, "batch group steps dim"],
        timesteps: Int[Tensor, "batch steps"],
        condition: Float[Tensor, "batch channels"],
    ) -> Float[Tensor, "batch group steps dim"]: ...


class X0Prediction(nn.Module):
    """The estimate of x_0 of a policy with velocity prediction."""

    policy: PredictsVelocity

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        if not isinstance(policy, PredictsVelocity):
            raise ValueError(
                "spread_weight needs a policy with noisy_and_target, alpha_sigma and predict, as "
                f"DiffusionPolicy has, not {type(policy).__name__}"
            )
        self.policy = policy

    def forward(
        self,
        condition: Float[Tensor, "batch channels"],
        x0: Float[Tensor, "batch group dim"],
        timesteps: Int[Tensor, "batch steps"],
        noise: Float[Tensor, "batch steps dim"],
    ) -> Float[Tensor, "batch group steps dim"]:
        noisy, _ = self.policy.noisy_and_target(x0, timesteps, noise)
        alpha, sigma = self.policy.alpha_sigma(timesteps)
        return alpha * noisy - sigma * self.policy.predict(noisy, timesteps, condition).float()


def spread_ratio(
    predicted: Float[Tensor, "batch group steps dim"], reference: Float[Tensor, "batch group steps dim"]
) -> Float[Tensor, "batch steps"]:
    """k, the spread of the predictions of a group relative to those of the reference."""
    variance, unit = (x0.var(dim=1, correction=0).mean(dim=-1) for x0 in (predicted, reference))
    # the square root of 0 has no finite gradient, and a group without spread is what the penalty is to undo
    return ((variance + NO_VARIANCE) / (unit + NO_VARIANCE)).sqrt()


def lost_spread(ratio: Float[Tensor, "batch steps"], floor: float) -> Float[Tensor, ""]:
    """The penalty: 0 if every ratio is at least `floor`, else the mean shortfall."""
    return (floor - ratio).relu().mean()
