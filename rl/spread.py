"""What is left of a group's spread in the policy's predictions, and a penalty on what is lost.

| here        | symbol  | equation                                                                             |
|-------------|---------|--------------------------------------------------------------------------------------|
| predicted   | g_i     | the policy's estimate of x_0 from x_t^i, at a high t; t and eps shared by the group    |
| variance    | V       | mean over parameters of the variance of g_i over the group                           |
| spread kept | k       | sqrt(V_theta / V_ref)                                                                 |
| penalty     |         | mean over images of max(0, floor - k)                                                |

Why predictions tell the spread of samples: a policy whose answer to an image is N(mu, sigma^2) predicts
g_i = mu + a sigma^2 / (a^2 sigma^2 + s^2) (x_t^i - a mu), so that groups of shared noise stay apart in its predictions
as far as it thinks answers may lie apart. A policy that has narrowed maps all of them to one middle, and no denoising
error of hypotheses it likes says so. Nothing is sampled: it costs one more forward pass a step. It is an entropy bonus
(Williams and Peng, Connection Science 1991) in the one moment of the policy that can be had this cheaply.

What it cannot see: a policy that has learned a few groups by heart tells them apart and samples narrowly all the same.
In 80 steps on 16 images k stayed above 1 while the spread of samples fell; `rl.monitoring.spread_callback` looks at those.

Left out: a floor for each joint on its own; the means over parameters are of standardised ones.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["HIGH_NOISE", "PredictsVelocity", "X0Prediction", "lost_spread", "spread_kept"]

HIGH_NOISE = (
    0.5,
    0.9,
)  # share of the diffusion: below, x_t says where a body is; above, nothing tells any two apart


@runtime_checkable
class PredictsVelocity(Protocol):
    """The part of `hmr.policy.policy.DiffusionPolicy` that predictions are read from."""

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
    """A policy's estimate of x_0 as a module's forward, so that it can be called under the reference's weights."""

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
        signal, spread = self.policy.alpha_sigma(timesteps)
        return signal * noisy - spread * self.policy.predict(noisy, timesteps, condition).float()


def spread_kept(
    predicted: Float[Tensor, "batch group steps dim"], reference: Float[Tensor, "batch group steps dim"]
) -> Float[Tensor, "batch steps"]:
    """k: how far the group's predictions lie apart, as a share of how far the reference's do."""
    variance, before = (item.var(dim=1, correction=0).mean(dim=-1) for item in (predicted, reference))
    return (variance / before.clamp_min(torch.finfo(before.dtype).tiny)).sqrt()


def lost_spread(kept: Float[Tensor, "batch steps"], floor: float) -> Float[Tensor, ""]:
    """0 while every group keeps `floor` of its reference's spread; above that, how much is missing on average."""
    return (floor - kept).relu().mean()
