"""Sampling of training rows by the rarity of their pose: most poses of a studio stand or walk.

The rarity of a pose is the distance to its tenth nearest neighbour among poses of the same set, in joint positions with
the body upright and facing ahead (so that only the pose counts). Drawing rows in proportion to a power of the rarity
flattens the density of the set, without using any other set. Nearest-neighbour distance as a density estimate:
Loftsgaarden and Quesenberry, Annals of Mathematical Statistics 36, 1965.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Sampler

from hmr.types import NUM_JOINTS

__all__ = ["WeightedRows", "rarity_m"]

REFERENCES, NEIGHBOUR = 4000, 10
BATCH = 4000


def rarity_m(poses_m: Float[Tensor, "rows 24 3"], generator: torch.Generator) -> Float[Tensor, "rows"]:
    """Root mean square distance per joint, in metres, to the tenth nearest pose among 4,000 of the rows."""
    poses = poses_m.flatten(1)
    references = poses[torch.randperm(len(poses), generator=generator)[:REFERENCES]]
    nearest = min(NEIGHBOUR, len(references))
    distances = [
        torch.cdist(batch, references).kthvalue(nearest, dim=1).values for batch in poses.split(BATCH)
    ]
    return torch.cat(distances) / NUM_JOINTS**0.5


class WeightedRows(Sampler[int]):
    """One epoch of rows, drawn with replacement; the draw depends only on the seed and the epoch."""

    def __init__(self, weights: Float[Tensor, "rows"], seed: int) -> None:
        self.weights, self.seed, self.epoch = weights, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by transformers.Trainer and accelerate, also in a resumed run."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000 + self.epoch)
        yield from torch.multinomial(
            self.weights.double(), len(self), replacement=True, generator=generator
        ).tolist()

    def __len__(self) -> int:
        return len(self.weights)
