"""Which training rows are shown how often: a studio's poses mostly stand and walk, and the street's do not.

How rare a pose is: the distance to its tenth neighbour among poses drawn from the same set, in joint positions, the
body turned upright and facing ahead (so that only its pose counts). Drawing rows in proportion to a power of it
flattens the set's density, which needs no knowledge of any other set; the use of neighbours' distances as a density is
classical (Loftsgaarden and Quesenberry, Annals of Mathematical Statistics 36, 1965).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Sampler

from hmr.body.model import Body
from hmr.policy.parametrization import split
from hmr.types import NUM_JOINTS

__all__ = ["WeightedRows", "rarity_m"]

REFERENCES, NEIGHBOUR = 4000, 10
BATCH = 4000


def rarity_m(
    vectors: Float[Tensor, "rows 157"], body: Body, generator: torch.Generator
) -> Float[Tensor, "rows"]:
    """Metres a joint, root mean square, to the tenth pose like it among 4,000 of the rows."""
    posed = torch.cat([_poses(batch, body) for batch in vectors.split(BATCH)])
    references = posed[torch.randperm(len(posed), generator=generator)[:REFERENCES]]
    nearest = min(NEIGHBOUR, len(references))
    far = [torch.cdist(batch, references).kthvalue(nearest, dim=1).values for batch in posed.split(BATCH)]
    return torch.cat(far) / NUM_JOINTS**0.5


def _poses(vectors: Float[Tensor, "rows 157"], body: Body) -> Float[Tensor, "rows 72"]:
    rotations, betas, _ = split(vectors)
    rotations = torch.cat([torch.eye(3).expand(len(vectors), 1, 3, 3), rotations[:, 1:]], dim=1)
    joints = body.joints_from_matrices(rotations, torch.zeros_like(betas))
    return (joints - joints[:, :1]).flatten(1)


class WeightedRows(Sampler[int]):
    """Rows with replacement, as many as there are; an epoch's draw depends on the seed and the epoch alone."""

    def __init__(self, weights: Float[Tensor, "rows"], seed: int) -> None:
        self.weights, self.seed, self.epoch = weights, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """transformers.Trainer and accelerate tell it, in a resumed run too."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000 + self.epoch)
        yield from torch.multinomial(
            self.weights.double(), len(self), replacement=True, generator=generator
        ).tolist()

    def __len__(self) -> int:
        return len(self.weights)
