"""Preference rows as tensors: everything a training step reads, computed once before the first step.

The whole set lies in memory, about 15 KB an image (G = 20, 157 parameters, 739 channels): a gigabyte holds
65,000 images. Reading shards while training, for more than that, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from datasets import Dataset
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from hmr.policy import Features
from hmr.types import BodyParams
from rl.types import PreferenceGroup

__all__ = ["Coordinates", "GroupTensors", "tensors_from_preferences"]


@runtime_checkable
class Coordinates(Protocol):
    """The part of `hmr.policy.DiffusionPolicy` that turns bodies into what it diffuses."""

    @property
    def device(self) -> torch.device: ...

    def to_x0(self, params: BodyParams, features: Features) -> Float[Tensor, "batch group dim"]: ...


@dataclass(frozen=True, eq=False)
class GroupTensors(TorchDataset):
    """N groups of G hypotheses each; one item is one image with its whole group."""

    condition: Float[Tensor, "images channels"]
    x0: Float[Tensor, "images group dim"]  # the policy's own coordinates
    advantages: Float[Tensor, "images group"]
    mask: Bool[Tensor, "images group"]
    scores: Float[Tensor, "images group"]  # raw, NaN for None; only metrics read them

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
        }

    @staticmethod
    def from_scores(
        condition: Float[Tensor, "images channels"],
        x0: Float[Tensor, "images group dim"],
        groups: Sequence[PreferenceGroup],
        advantage_clip: float,
        min_group_std: float,
    ) -> GroupTensors:
        """`min_group_std` is a share of the median group's std, so that it means the same for every
        scorer."""
        stds = [std for group in groups if (std := group.score_std()) is not None]
        floor = min_group_std * torch.tensor(stds or [0.0]).median().item()
        advantages = [group.advantages(advantage_clip, floor) for group in groups]
        scores = [[float("nan") if score is None else score for score in group.scores] for group in groups]
        return GroupTensors(
            condition,
            x0,
            torch.stack([item.values for item in advantages]),
            torch.stack([item.mask for item in advantages]),
            torch.tensor(scores, dtype=torch.float32),
        )


def tensors_from_preferences(
    policy: Coordinates, dataset: Dataset, advantage_clip: float = 5.0, min_group_std: float = 0.1
) -> GroupTensors:
    """Rows of `rl.preferences.load_preferences` in the coordinates of `policy`.

    Raises ValueError if there is no row or if the groups differ in size.
    """
    if not len(dataset):
        raise ValueError("there is nothing to align on: the preference set has no row")
    groups = [PreferenceGroup.from_row(cast(dict[str, Any], row)) for row in dataset.with_format(None)]
    sizes = sorted({len(group.scores) for group in groups})
    if len(sizes) > 1:
        raise ValueError(f"all groups of a preference set must have one size, not {sizes}")
    condition = torch.stack([group.condition for group in groups])
    geometry = torch.stack([group.geometry for group in groups])
    params = BodyParams.stack([group.hypotheses.params for group in groups])
    with torch.no_grad():
        features = Features(condition.to(policy.device), geometry.to(policy.device))
        x0 = policy.to_x0(params.to(policy.device), features).cpu()
    return GroupTensors.from_scores(condition, x0, groups, advantage_clip, min_group_std)
