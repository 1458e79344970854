"""Shapes of the people in scenes: a new one for each scene, or those of a few numbered subjects.

A data set of a studio shows the same people again and again (Human3.6M: 11), photographs show another one each time.
The subjects are our own; only their number is taken from a data set.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from common.seeding import derive_generator
from hmr.types import NUM_BETAS

__all__ = ["draw_betas"]

MAX_BETA = 3.0  # standard deviations


def draw_betas(
    count: int, std: float | int, subjects: Sequence[int], generator: torch.Generator
) -> Float[Tensor, "batch 10"]:
    """Betas from N(0, std^2), of any people or of `subjects`, whose shapes depend only on their numbers."""
    if not subjects:
        return _normal(count, std, generator)
    shapes = torch.cat([_normal(1, std, derive_generator("subject", number)) for number in subjects])
    return shapes[torch.randint(len(subjects), (count,), generator=generator)]


def _normal(count: int, std: float | int, generator: torch.Generator) -> Float[Tensor, "batch 10"]:
    return (torch.randn(count, NUM_BETAS, generator=generator) * std).clamp(-MAX_BETA, MAX_BETA)
