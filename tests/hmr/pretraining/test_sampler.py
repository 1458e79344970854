"""Rare poses are farther from the others, and are drawn more often; a resumed epoch draws the same rows."""

from __future__ import annotations

import torch
from torch import Tensor

from hmr.body.model import Body
from hmr.policy.parametrization import VECTOR_SIZE
from hmr.pretraining.sampler import WeightedRows, rarity_m


def _standing(count: int) -> Tensor:
    vectors = torch.zeros(count, VECTOR_SIZE)
    vectors[:, :144] = torch.eye(3)[:, :2].flatten().repeat(24)
    return vectors + 0.02 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))


def _rarity(vectors: Tensor, body: Body) -> Tensor:
    return rarity_m(vectors, body, torch.Generator().manual_seed(1))


def test_an_unusual_pose_is_the_rarest(body: Body) -> None:
    vectors = _standing(40)
    odd = 17
    vectors[odd, 6:144] = vectors[odd, 6:144].roll(6 * 5)  # every joint gets the rotation of another one
    vectors[odd, 6 * 16 : 6 * 18] = torch.tensor([[0.0, 1], [1, 0], [0, 0]]).flatten().repeat(2)
    assert _rarity(vectors, body).argmax() == odd


def test_rarity_does_not_depend_on_the_heading(body: Body) -> None:
    vectors = _standing(40)
    facing = vectors.clone()
    facing[3, :6] = torch.tensor([[-1.0, 0], [0, 1], [0, 0]]).flatten()
    torch.testing.assert_close(_rarity(facing, body), _rarity(vectors, body))


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
