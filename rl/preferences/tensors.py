"""Preference rows as tensors: everything that a training step reads, computed once before the first step.

An image takes 14.5 KB (G = 20, 157 parameters, 406 channels). The trainer holds the tensors in mapped files of its
folder (`common.storage.mapped_files`), so that a set may be larger than the memory. They are computed in blocks of
rows; the size of a block does not change them. Of what is in memory, 4 bytes per image depend on the size of the set.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, cast, runtime_checkable

import pyarrow as pa
import torch
from datasets import Dataset
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from common.storage.files import PathLike
from common.storage.mapped_files import check_room, mapped_array
from hmr.policy.policy import Features
from hmr.types import BodyParams
from rl.advantages import (
    DEFAULT_ADVANTAGES,
    AdvantageSettings,
    Scores,
    SetScale,
    advantages_of,
    scale_of_set,
)
from rl.preferences.tables import BLOCK_ROWS, array_of, row_blocks
from rl.types import PARAM_COLUMNS

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
        return {"row": torch.tensor(row), **{name: column[row] for name, column in self.columns().items()}}

    def columns(self) -> dict[str, Tensor]:
        """All tensors, by the names that they have in a batch."""
        return {
            "condition": self.condition,
            "x0": self.x0,
            "advantages": self.advantages,
            "mask": self.mask,
            "scores": self.scores,
            **{f"{REWARDS}{name}": values for name, values in self.rewards.items()},
        }

    def contents(self) -> Iterator[bytes]:
        """The bytes that a training depends on, in blocks."""
        for column in (self.condition, self.x0, self.advantages, self.mask):
            for block in column.split(BLOCK_ROWS):
                yield block.numpy().tobytes()

    @staticmethod
    def from_scores(
        condition: Float[Tensor, "images channels"],
        x0: Float[Tensor, "images group dim"],
        scores: Sequence[Scores],
        settings: AdvantageSettings = DEFAULT_ADVANTAGES,
        rewards: Mapping[str, Sequence[Scores]] = MappingProxyType({}),
        of_set: SetScale | None = None,
    ) -> GroupTensors:
        """`scores` and the scores of each reward function are in the order of the images.

        of_set: as for `rl.advantages.advantages_of`.
        """
        tensors = {name: _with_nan(values) for name, values in rewards.items()}
        advantages, mask = advantages_of(scores, x0, settings, of_set)
        return GroupTensors(condition, x0, advantages, mask, _with_nan(scores), tensors)


def tensors_from_preferences(
    policy: nn.Module | Coordinates,
    dataset: Dataset,
    settings: AdvantageSettings = DEFAULT_ADVANTAGES,
    folder: PathLike | None = None,
    block_rows: int = BLOCK_ROWS,
) -> GroupTensors:
    """Rows of `rl.preferences.build.load_preferences` in the coordinates of `policy`. A policy of SMPL bodies needs the
    methods of `Coordinates`; the rows of a policy behind an adapter (`rl.policy_adapter`) already hold x_0.

    folder: of the files that hold the tensors; they have no names and vanish with the tensors. None: in memory.
    block_rows: number of rows that are converted at once.

    Raises ValueError if there is no row, if the groups differ in size, or if another policy sampled them, because the
    denoising errors of the reference are then no estimate of the likelihood of a group. Raises OSError, with folder
    and size, if the disk is too small.
    """
    if not len(dataset):
        raise ValueError("the preference set has no rows")
    _check_sampled_by(policy, dataset)
    _check_one_size(dataset)
    of_set = scale_of_set(_scores(dataset), settings)
    blocks = (
        _tensors_of_block(policy, block, settings, of_set) for block in row_blocks(dataset, rows=block_rows)
    )
    return _collected(blocks, len(dataset), folder)


def _check_sampled_by(policy: nn.Module | Coordinates, dataset: Dataset) -> None:
    if not isinstance(policy, HasDigest):
        return
    found: set[str] = set()
    for block in row_blocks(dataset, ["policy_digest"]):
        found.update(block["policy_digest"].unique().to_pylist())
    if others := sorted(found - {policy.digest()}):
        raise ValueError(
            f"the groups were sampled by policy {', '.join(others)}, not by this one, {policy.digest()}"
        )


def _check_one_size(dataset: Dataset) -> None:
    sizes = sorted({len(group) for group in _scores(dataset)})
    if len(sizes) > 1:
        raise ValueError(f"all groups of a preference set must have one size, not {sizes}")


def _scores(dataset: Dataset) -> Iterator[Scores]:
    for block in row_blocks(dataset, ["scores"]):
        yield from block["scores"].to_pylist()


@torch.no_grad()
def _tensors_of_block(
    policy: nn.Module | Coordinates, block: pa.Table, settings: AdvantageSettings, of_set: SetScale
) -> GroupTensors:
    scores = block["scores"].to_pylist()
    if "x0" in block.column_names:
        condition = torch.from_numpy(array_of(block, "condition"))
        x0 = torch.from_numpy(array_of(block, "x0")).unflatten(1, (len(scores[0]), -1))
    else:
        condition, x0 = _from_bodies(cast(Coordinates, policy), block, len(scores[0]))
    names = sorted({name for name in block.column_names if name.startswith(REWARDS)})
    rewards = {name.removeprefix(REWARDS): block[name].to_pylist() for name in names}
    return GroupTensors.from_scores(condition, x0, scores, settings, rewards, of_set)


def _from_bodies(
    policy: Coordinates, block: pa.Table, group: int
) -> tuple[Float[Tensor, "images channels"], Float[Tensor, "images group dim"]]:
    arrays = {
        name: torch.from_numpy(array_of(block, name)).reshape(len(block), group, *shape)
        for name, shape in PARAM_COLUMNS.items()
    }
    features = _features(block)
    on_device = Features(features.condition.to(policy.device), features.geometry.to(policy.device))
    return features.condition, policy.to_x0(BodyParams(**arrays).to(policy.device), on_device).cpu()


def _collected(blocks: Iterator[GroupTensors], rows: int, folder: PathLike | None) -> GroupTensors:
    """All blocks in one, in files of `folder` or in memory."""
    first, start = next(blocks), 0
    columns = _blank_columns(first, rows, folder)
    for block in chain([first], blocks):
        for name, part in block.columns().items():
            columns[name][start : start + len(block)] = part
        start += len(block)
    names = [name for name in columns if name.startswith(REWARDS)]
    rewards = {name.removeprefix(REWARDS): columns.pop(name) for name in names}
    return GroupTensors(**columns, rewards=rewards)


def _blank_columns(like: GroupTensors, rows: int, folder: PathLike | None) -> dict[str, Tensor]:
    """Room for `rows` rows in the columns of a block."""
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        check_room(folder, sum(column[0].nbytes for column in like.columns().values()) * rows)
    return {
        name: torch.from_numpy(mapped_array((rows, *column.shape[1:]), column.numpy().dtype, folder))
        for name, column in like.columns().items()
    }


def features_of(dataset: Dataset) -> Features:
    """The features of each image of a preference set: condition and position of the crop."""
    blocks = [_features(block) for block in row_blocks(dataset, ["condition", "geometry"])]
    return Features(
        torch.cat([block.condition for block in blocks]), torch.cat([block.geometry for block in blocks])
    )


def _features(block: pa.Table) -> Features:
    return Features(
        torch.from_numpy(array_of(block, "condition")), torch.from_numpy(array_of(block, "geometry"))
    )


def _with_nan(scores: Sequence[Scores]) -> Float[Tensor, "images group"]:
    return torch.tensor([[math.nan if score is None else score for score in group] for group in scores])
