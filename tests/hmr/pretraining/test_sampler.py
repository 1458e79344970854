"""Rare poses are farther from the others, and are drawn more often; a resumed epoch draws the same rows."""

from __future__ import annotations

import torch
from torch import Tensor

from hmr.pretraining.sampler import WeightedRows, rarity_m


def _standing(count: int) -> Tensor:
    """Joints in metres about the pelvis: one pose, a little changed in each row."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(24, 3, generator=generator) + 0.02 * torch.randn(count, 24, 3, generator=generator)


def test_an_unusual_pose_is_the_rarest() -> None:
    poses = _standing(40)
    odd = 17
    poses[odd] = poses[odd].roll(5, dims=0)  # every joint where another one was
    assert rarity_m(poses, torch.Generator().manual_seed(1)).argmax() == odd


def test_rows_are_drawn_by_weight_and_epochs_differ() -> None:
    rows = WeightedRows(torch.tensor([0.0, 1.0, 3.0, 0.0]).repeat(500), seed=4)
    first = list(rows)
    assert len(first) == len(rows) == 2000
    kinds = torch.tensor(first) % 4
    assert set(kinds.tolist()) == {1, 2}
    assert 0.70 < (kinds == 2).float().mean() < 0.80
    rows.set_epoch(1)
    assert list(rows) != first
    rows.set_epoch(0)
    assert list(rows) == first
