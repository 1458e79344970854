"""Where a photograph lies among the prototypes: the policy encoder's pooled feature of the person's crop."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from hmr.policy import DiffusionPolicy
from hmr.types import Sample

__all__ = ["PolicyEmbedder"]


class PolicyEmbedder:
    """The embedded default of `agent.context.SampleEmbedder`; needs no weights but the policy's own.

    The feature is of the encoder, which alignment never trains: one memory serves a policy and what it becomes.
    """

    def __init__(self, policy: DiffusionPolicy) -> None:
        self.policy = policy
        self.dim = policy.encoder.pooled_size

    @property
    def name(self) -> str:
        return "policy-encoder"

    def __call__(self, sample: Sample) -> Float[np.ndarray, "dim"]:
        return self.policy.see([sample]).vector[0, : self.dim].cpu().numpy()
