"""Preference rows as tensors: everything that a training step reads, computed once before the first step.

The whole set is held in memory, about 15 KB per image (G = 20, 157 parameters, 739 channels), so a gigabyte holds
65,000 images. Reading shards during training, for larger sets, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from hmr.policy.policy import Features
from hmr.types import BodyParams
from rl.advantages import DEFAULT_ADVANTAGES, AdvantageSettings, Scores, advantages_of
from rl.types import PreferenceGroup

__all__ = ["Coordinates", "GroupTensors", "features_of", "tensors_from_preferences"]

REWARDS = "rewards/"  # prefix of the name of a reward function, in columns and in metrics


@runtime_checkable
class Coordinates(Protocol):
    """The methods of `hmr.policy.policy.DiffusionPolicy` that convert bodies to the diffused coordinates."""

    @property
    def device(self) -> torch.device: ...

    def to_x0(self, params: BodyParams, features: Features) -> Float[Tensor, "batch group dim"]: ...


@runtime_checkable
class HasDigest(Protocol):
    """A policy with a content hash."""

    def digest(self) -> str: ...


@dataclass(frozen=True, eq=False)
class GroupTensors(TorchDataset):
    """N groups of G hypotheses; an item is an image with its whole group."""

    condition: Float[Tensor, "images channels"]
    x0: Float[Tensor, "images group dim"]  # in the coordinates of the policy
    advantages: Float[Tensor, "images group"]
    mask: Bool[Tensor, "images group"]
    scores: Float[Tensor, "images group"]  # raw, NaN for None; for metrics only
    # by reward function, for metrics only
    rewards: Mapping[str, Float[Tensor, "images group"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.condition.shape[0]

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {
            "row": torch.tensor(row),
            "condition": self.condition[row],
            "x0": self.x0[row],
            "advantages": self.advantages[row],
            "mask": self.mask[row],
            "scores": self.scores[row],
            **{f"{REWARDS}{name}": values[row] for name, values in self.rewards.items()},
        }

    @staticmethod
    def from_scores(
        condition: Float[Tensor, "images channels"],
        x0: Float[Tensor, "images group dim"],
        scores: Sequence[Scores],
        settings: AdvantageSettings = DEFAULT_ADVANTAGES,
        rewards: Mapping[str, Sequence[Scores]] = MappingProxyType({}),
    ) -> GroupTensors:
        """`scores` and the scores of each reward function are in the order of the images."""
        tensors = {name: _with_nan(values) for name, values in rewards.items()}
        return GroupTensors(condition, x0, *advantages_of(scores, x0, settings), _with_nan(scores), tensors)


def tensors_from_preferences(
    policy: nn.Module | Coordinates, dataset: Dataset, settings: AdvantageSettings = DEFAULT_ADVANTAGES
) -> GroupTensors:
    """Rows of `rl.preferences.build.load_preferences` in the coordinates of `policy`. A policy of SMPL bodies needs the
    methods of `Coordinates`; the rows of a policy behind an adapter (`rl.policy_adapter`) already hold x_0.

    Raises ValueError if there is no row, if the groups differ in size, or if another policy sampled them, because the
    denoising errors of the reference are then no estimate of the likelihood of a group.
    """
    if not len(dataset):
        raise ValueError("the preference set has no rows")
    _check_sampled_by(policy, dataset)
    scores = dataset["scores"][:]
    sizes = sorted({len(group) for group in scores})
    if len(sizes) > 1:
        raise ValueError(f"all groups of a preference set must have one size, not {sizes}")
    if "x0" in dataset.column_names:
        condition, x0 = _column(dataset, "condition"), _column(dataset, "x0")
        x0 = x0.unflatten(1, (sizes[0], -1))
    else:
        condition, x0 = _from_bodies(cast(Coordinates, policy), dataset)
    names = sorted({name for name in dataset.column_names if name.startswith(REWARDS)})
    rewards = {name.removeprefix(REWARDS): dataset[name][:] for name in names}
    return GroupTensors.from_scores(condition, x0, scores, settings, rewards)


def _check_sampled_by(policy: nn.Module | Coordinates, dataset: Dataset) -> None:
    if not isinstance(policy, HasDigest):
        return
    others = sorted(set(dataset["policy_digest"]) - {policy.digest()})
    if others:
        raise ValueError(
            f"the groups were sampled by policy {', '.join(others)}, not by this one, {policy.digest()}"
        )


@torch.no_grad()
def _from_bodies(
    policy: Coordinates, dataset: Dataset
) -> tuple[Float[Tensor, "images channels"], Float[Tensor, "images group dim"]]:
    rows = dataset.with_format(None)
    params = [PreferenceGroup.from_row(cast(dict[str, Any], row)).hypotheses.params for row in rows]
    features = features_of(dataset)
    on_device = Features(features.condition.to(policy.device), features.geometry.to(policy.device))
    return features.condition, policy.to_x0(BodyParams.stack(params).to(policy.device), on_device).cpu()


def features_of(dataset: Dataset) -> Features:
    """The features of each image of a preference set: condition and position of the crop."""
    return Features(_column(dataset, "condition"), _column(dataset, "geometry"))


def _column(dataset: Dataset, name: str) -> Float[Tensor, "images length"]:
    return torch.from_numpy(np.stack(list(dataset.with_format("numpy")[name])).astype(np.float32))


def _with_nan(scores: Sequence[Scores]) -> Float[Tensor, "images group"]:
    return torch.tensor([[math.nan if score is None else score for score in group] for group in scores])
