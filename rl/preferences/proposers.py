"""Proposers: where the hypotheses of a preference group come from.

| proposer                       | hypotheses                                                                        |
|--------------------------------|-----------------------------------------------------------------------------------|
| `PolicySamples` (default)      | samples of the policy                                                             |
| `rl.preferences.search.Search` | samples, samples guided by a detection, and bodies changed by rule                |

All losses but `resample` compare the policy's likelihood of a hypothesis with that of the policy that sampled it, so
they need `PolicySamples`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hmr.policy.policy import Features
from hmr.types import Hypotheses, Sample
from rl.policy_adapter import AdapterGroup, PolicyAdapter
from rl.types import PreferenceGroup

__all__ = ["Group", "PolicySamples", "Proposal", "Proposer", "SamplingPolicy"]

Group = PreferenceGroup | AdapterGroup


@runtime_checkable
class SamplingPolicy(Protocol):
    """The methods of `hmr.policy.policy.DiffusionPolicy` that group building needs."""

    def encode(self, samples: Sequence[Sample]) -> Features: ...

    def sample(
        self,
        features: Features,
        num_samples: int,
        generator: torch.Generator,
        noise_scale: float = 1.0,
    ) -> list[Hypotheses]: ...

    def digest(self) -> str: ...


@dataclass(frozen=True)
class Proposal:
    """The hypotheses of one image, and what alignment needs to know of the image.

    origins: where each hypothesis comes from; None if the policy sampled all. A scorer never receives them.
    """

    hypotheses: Hypotheses
    features: Features  # of one image
    origins: tuple[str, ...] | None = None

    def unscored(self, **identity: Any) -> PreferenceGroup:
        """The group without scores; `identity`: the other fields of `PreferenceGroup`."""
        return PreferenceGroup(
            hypotheses=self.hypotheses,
            condition=self.features.condition[0],
            geometry=self.features.geometry[0],
            scores=(None,) * len(self.hypotheses),
            origins=self.origins,
            **identity,
        )


@dataclass(frozen=True)
class AdapterProposal:
    """The hypotheses of a policy behind an adapter."""

    hypotheses: Hypotheses | Float[Tensor, "group *shape"]  # as critics receive them
    x0: Float[Tensor, "group dim"]
    condition: Float[Tensor, " channels"]

    def unscored(self, **identity: Any) -> AdapterGroup:
        """The group without scores; `identity`: the other fields of `AdapterGroup`."""
        return AdapterGroup(
            hypotheses=self.hypotheses,
            condition=self.condition,
            x0=self.x0,
            scores=(None,) * len(self.x0),
            **identity,
        )


@runtime_checkable
class Proposer(Protocol):
    """Makes the hypotheses of a group; equal generators give equal hypotheses."""

    @property
    def group_size(self) -> int: ...

    def describe(self) -> dict[str, Any]:
        """The part of the set's manifest that the hypotheses depend on besides policy, seed and image, as JSON."""
        ...

    def propose(
        self, policy: SamplingPolicy | PolicyAdapter, sample: Sample, generator: torch.Generator
    ) -> Proposal | AdapterProposal: ...


@dataclass(frozen=True)
class PolicySamples:
    """Samples of the policy; `noise_scale` multiplies the starting noise: above 1 groups are wider."""

    group_size: int = 20
    noise_scale: float = 1.0

    def describe(self) -> dict[str, Any]:
        return {"group_size": self.group_size, "noise_scale": self.noise_scale}

    def propose(
        self, policy: SamplingPolicy | PolicyAdapter, sample: Sample, generator: torch.Generator
    ) -> Proposal | AdapterProposal:
        if isinstance(policy, PolicyAdapter):
            condition = policy.features([sample])
            draws = policy.sample(condition, self.group_size, generator, self.noise_scale)
            return AdapterProposal(draws.shown[0], draws.x0[0], condition[0])
        features = policy.encode([sample])
        return Proposal(policy.sample(features, self.group_size, generator, self.noise_scale)[0], features)
