"""The regression head: a detection -> one estimate of the body, about which the denoiser samples."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["RegressionHead"]

EXPANSION = 2


class RegressionHead(nn.Module):
    """A residual MLP with pre-normalisation. Its inputs are bounded numbers (`hmr.policy.condition`) and are not
    normalised: a layer norm over points would depend on how many are observed."""

    def __init__(self, size: int, width: int, depth: int, out: int) -> None:
        super().__init__()
        self.first = nn.Linear(size, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, EXPANSION * width),
                nn.SiLU(),
                nn.Linear(EXPANSION * width, width),
            )
            for _ in range(depth)
        )
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out))

    def forward(self, features: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch out"]:
        hidden = self.first(features)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden)
