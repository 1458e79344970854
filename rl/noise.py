"""The times and the noise of a step, each image's from a generator of its own (`common.seeding`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["draw_times", "draw_times_and_noise"]


def draw_times(count: int, bounds: tuple[int, int], generator: torch.Generator) -> Int[Tensor, " count"]:
    """`count` times in [low, high), one in each equal stratum; neighbours mirror each other's place in theirs."""
    low, high = bounds
    place = torch.rand((), generator=generator)
    places = torch.where(torch.arange(count) % 2 == 0, place, 1 - place)
    times = low + (torch.arange(count) + places) / count * (high - low)
    return times.long().clamp(low, high - 1)


def draw_times_and_noise(
    generators: Sequence[torch.Generator], count: int, bounds: tuple[int, int], dim: int
) -> tuple[Int[Tensor, "batch {count}"], Float[Tensor, "batch {count} {dim}"]]:
    """For each generator, `count` times of `draw_times` and a noise of `dim` numbers for each."""
    times = [draw_times(count, bounds, generator) for generator in generators]
    noise = [torch.randn(count, dim, generator=generator) for generator in generators]
    return torch.stack(times), torch.stack(noise)
