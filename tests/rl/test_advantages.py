"""Advantages of a group and of a whole set: scales, masks, and the two options that protect the spread."""

import pytest
import torch

from rl.advantages import AdvantageSettings, advantages_of, group_advantages, standardised_distance
from rl.preferences.tensors import GroupTensors

NARROW, WIDE = [1.0, 2.0, 3.0], [10.0, 20.0, 30.0]  # stds sqrt(2/3) = .816497 and 8.16497
X0 = torch.zeros(2, 3, 1)


def test_advantages_standardise_within_the_group():
    found = group_advantages([1.0, 2.0, 3.0, 6.0])
    # mean 3; squared deviations 4, 1, 0, 9; population std sqrt(14 / 4) = 1.870829
    expected = torch.tensor([-2.0, -1.0, 0.0, 3.0]) / 1.870829
    torch.testing.assert_close(found.values, expected)
    assert found.mask.all()


def test_a_missing_score_is_ignored():
    found = group_advantages([1.0, None, 3.0])
    assert found.values.tolist() == [-1.0, 0.0, 1.0]  # mean 2, population std 1
    assert found.mask.tolist() == [True, False, True]


def test_advantages_are_clipped():
    # 1 of n apart: the largest advantage is sqrt(n - 1), here 10 -> 5
    found = group_advantages([0.0] * 100 + [1.0], clip=5.0)
    assert found.values.max() == 5.0
    assert group_advantages([0.0] * 100 + [1.0], clip=20.0).values.max() == pytest.approx(10.0)


@pytest.mark.parametrize(
    "scores", [[2.0, 2.0, 2.0], [0.1 + 0.2, 0.3, 0.3], [None, None, None], [None, 4.0, None]]
)
def test_a_group_of_equal_scores_is_masked(scores):
    found = group_advantages(scores)
    assert not found.mask.any()
    assert not found.values.any()


def test_a_tiny_std_is_masked_in_the_unit_of_the_scores():
    scores = [50.0, 50.5, 51.0]  # population std .408
    assert group_advantages(scores, min_std=0.4).mask.all()
    assert not group_advantages(scores, min_std=0.41).mask.any()


def test_the_floor_of_a_set_follows_its_median_group():
    stds = [0.1, 10.0, 20.0]  # of [-s, s]; a tenth of the median is 1
    groups = [[-std, std] for std in stds]
    for scale in (1.0, 1000.0):
        scaled = [[scale * score for score in group] for group in groups]
        tensors = GroupTensors.from_scores(torch.zeros(3, 1), torch.zeros(3, 2, 1), scaled)
        assert tensors.mask.any(dim=-1).tolist() == [False, True, True]


def of(kind: str, **more: float) -> list[list[float]]:
    settings = AdvantageSettings(kind, min_group_std=0.0, **more)
    return advantages_of([NARROW, WIDE], X0, settings)[0].tolist()


def test_group_gives_all_groups_the_same_scale():
    first, second = of("group")
    assert first == pytest.approx(second)
    assert first == pytest.approx([-1.224745, 0.0, 1.224745])  # 1 / .816497


def test_batch_gives_wide_groups_more_weight_for_every_batch_size():
    first, second = of("batch")
    # sqrt((.816497^2 + 8.16497^2) / 2) = sqrt((.666667 + 66.6667) / 2) = 5.802298
    assert first == pytest.approx([-0.172346, 0.0, 0.172346], abs=1e-6)
    assert second == pytest.approx([-1.723455, 0.0, 1.723455], abs=1e-5)


def test_none_keeps_the_unit_of_the_scores():
    assert of("none", clip=20.0) == [[-1.0, 0.0, 1.0], [-10.0, 0.0, 10.0]]


@pytest.mark.parametrize("kind", ["group", "batch", "none"])
def test_every_kind_is_clipped_and_masked(kind):
    settings = AdvantageSettings(kind, clip=0.5)
    scores = [[1.0, 2.0, None], [5.0, 5.0, 5.0]]
    values, mask = advantages_of(scores, X0, settings)
    assert values.tolist() == [[-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    assert mask.tolist() == [[True, True, False], [False, False, False]]


def drawn(seed: int = 0) -> tuple[list[list[float | None]], torch.Tensor]:
    """Groups whose hypotheses near the mean have better scores; one score is missing."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(4, 20, 6, generator=generator)
    noise = torch.randn(4, 20, generator=generator)
    scores: list[list[float | None]] = (-x0.square().sum(dim=-1) + noise).tolist()
    scores[1][3] = None
    return scores, x0


def test_distances_are_standardised_over_the_scored():
    scores, x0 = drawn()
    mask = torch.tensor([[score is not None for score in group] for group in scores])
    distance = standardised_distance(x0, mask)
    assert distance[1, 3] == 0
    counts = mask.sum(dim=1)
    torch.testing.assert_close(distance.sum(dim=1), torch.zeros(4), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(distance.square().sum(dim=1) / counts, torch.ones(4))
    farthest = (x0[0] - x0[0].mean(dim=0)).norm(dim=-1).argmax()
    assert distance[0].argmax() == farthest


def test_a_group_of_one_distance_has_none():
    pair = torch.tensor([[[0.0], [1.0]]])  # both half a unit from their mean
    assert not standardised_distance(pair, torch.ones(1, 2, dtype=torch.bool)).any()


def tilted_variance(weights: torch.Tensor, x0: torch.Tensor, step: float = 1e-3) -> torch.Tensor:
    """Variance of groups whose members have weight 1 + step A."""
    weights = (1 + step * weights)[..., None]
    weights = weights / weights.sum(dim=1, keepdim=True)
    mean = (weights * x0).sum(dim=1, keepdim=True)
    return (weights * (x0 - mean).square()).sum(dim=(1, 2))


def test_spread_neutral_advantages_keep_the_variance_to_first_order():
    scores, x0 = drawn()
    scores[1][3] = 0.0
    plain, _ = advantages_of(scores, x0, AdvantageSettings())
    neutral, _ = advantages_of(scores, x0, AdvantageSettings(spread_neutral=True))
    before = tilted_variance(torch.zeros_like(plain), x0)
    lost = before - tilted_variance(plain, x0)
    assert (lost > 1e-4 * before).all()
    assert ((before - tilted_variance(neutral, x0)).abs() < 0.01 * lost).all()
    torch.testing.assert_close(neutral.sum(dim=1), torch.zeros(4), atol=1e-4, rtol=0.0)


def test_the_diversity_weight_is_in_stds_of_the_advantages():
    scores, x0 = drawn()
    for kind in ("group", "none"):
        plain, mask = advantages_of(scores, x0, AdvantageSettings(kind, clip=1e9))
        diverse, _ = advantages_of(scores, x0, AdvantageSettings(kind, clip=1e9, diversity_weight=0.5))
        std = (plain.square().sum(dim=1) / mask.sum(dim=1)).sqrt()[:, None]
        torch.testing.assert_close(diverse, plain + 0.5 * std * standardised_distance(x0, mask))


@pytest.mark.parametrize("more", [{"spread_neutral": True}, {"diversity_weight": 1.0}])
def test_neither_option_changes_a_masked_group(more):
    _, x0 = drawn()
    scores = [[None] * 20, [None] * 19 + [1.0], [2.0] * 20, [1.0] * 19 + [None]]
    values, mask = advantages_of(scores, x0, AdvantageSettings(**more))
    assert not values.any()
    assert not mask.any()
