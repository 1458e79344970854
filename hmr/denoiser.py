"""The denoiser: (noisy body parameters, time, what was seen) -> the scheduler's prediction target.

A residual MLP with adaptive layer norm (DiT, Peebles and Xie, ICCV 2023, arXiv 2212.09748). Everything that depends on
the image and the time alone is computed once for a whole group, so a hypothesis costs two matrix products a block.
Left out of ScoreHypo's denoiser (CVPR 2024): tokens and attention, which `hmr.token_denoiser` has.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["Denoiser", "seen_encoder", "sinusoids", "time_encoder"]


def sinusoids(timesteps: Int[Tensor, "*batch"], frequencies: int) -> Float[Tensor, "*batch {2*frequencies}"]:
    """Of the step index (Vaswani et al., 2017)."""
    steps = torch.arange(frequencies, device=timesteps.device, dtype=torch.float32)
    angles = timesteps[..., None].float() * torch.exp(-math.log(10_000.0) * steps / frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def time_encoder(frequencies: int, width: int) -> nn.Sequential:
    """From `sinusoids` to the width of a denoiser."""
    return nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))


def seen_encoder(size: int, width: int) -> nn.Sequential:
    """From what was seen of an image to the width of a denoiser."""
    return nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))


class ModulatedBlock(nn.Module):
    def __init__(self, width: int, expansion: int = 2) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.inner = nn.Sequential(
            nn.Linear(width, expansion * width), nn.SiLU(), nn.Linear(expansion * width, width)
        )
        nn.init.zeros_(self.modulation.weight)  # every block starts as the identity
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self, hidden: Float[Tensor, "*rows width"], context: Float[Tensor, "*context width"]
    ) -> Float[Tensor, "*rows width"]:
        shift, scale, gate = self.modulation(context).chunk(3, dim=-1)
        return hidden + gate * self.inner(self.norm(hidden) * (1 + scale) + shift)


class Denoiser(nn.Module):
    """The condition is what was seen, and behind it a first guess of x0, which has a way in of its own: zero at the
    start, it lets a good guess pass without the seen features' normalisation in between."""

    def __init__(self, dim: int, condition_size: int, width: int, depth: int) -> None:
        super().__init__()
        self.dim = dim
        self.frequencies = width // 4
        self.from_x = nn.Linear(dim, width)
        self.from_time = time_encoder(self.frequencies, width)
        self.from_seen = seen_encoder(condition_size - dim, width)
        self.from_guess = nn.Linear(dim, width)
        self.from_pull = nn.Linear(dim, width, bias=False)
        for way in (self.from_guess, self.from_pull):
            nn.init.zeros_(way.weight)
        nn.init.zeros_(self.from_guess.bias)
        self.blocks = nn.ModuleList(ModulatedBlock(width) for _ in range(depth))
        self.head = nn.Linear(width, dim)
        self.silence()

    def silence(self) -> None:
        """Predict nothing, as at the start: the policy then samples from a Gaussian about its guess."""
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        noisy: Float[Tensor, "batch group steps dim"],
        pull: Float[Tensor, "batch group steps dim"],
        timesteps: Int[Tensor, "batch steps"],
        condition: Float[Tensor, "batch channels"],
    ) -> Float[Tensor, "batch group steps dim"]:
        """The prediction for G hypotheses an image at K times an image."""
        seen, guess = condition[:, : -self.dim], condition[:, -self.dim :]
        times = sinusoids(timesteps, self.frequencies).to(self.from_x.weight.dtype)
        image = self.from_seen(seen) + self.from_guess(guess)
        context = image[:, None] + self.from_time(times)
        context = nn.functional.silu(context)[:, None]  # batch 1 steps width
        hidden = self.from_x(noisy) + self.from_pull(pull)
        for block in self.blocks:
            hidden = block(hidden, context)
        return self.head(hidden)
