"""Label orders, and how several scorings become one."""

import numpy as np
import pytest

from agent.scoring.ranking import combine, label_names, label_orders, order_seed


def test_labels_go_on_after_z():
    assert label_names(3) == ["A", "B", "C"]
    assert label_names(28)[24:] == ["Y", "Z", "AA", "AB"]


def test_orders_are_permutations_and_reproducible():
    first, second = label_orders(10, 3, seed=1), label_orders(10, 3, seed=1)
    assert [order.tolist() for order in first] == [order.tolist() for order in second]
    assert all(sorted(order.tolist()) == list(range(10)) for order in first)
    assert len({tuple(order.tolist()) for order in first}) == 3


def test_over_many_cases_every_hypothesis_has_every_label_equally_often():
    """A backend that prefers some labels then prefers no hypothesis."""
    count, cases = 20, [f"image-{number}" for number in range(400)]
    orders = [order for case in cases for order in label_orders(count, 3, order_seed(0, case))]
    labels = np.argsort(np.stack(orders), axis=1)
    np.testing.assert_allclose(labels.mean(axis=0), (count - 1) / 2, atol=0.75)  # 4.5 standard deviations
    assert order_seed(0, cases[0]) == order_seed(0, cases[0])
    assert order_seed(0, cases[0]) != order_seed(1, cases[0])


def test_combined_scores_follow_mean_rank_on_the_mean_profile():
    # ranks (0 best): order 1 -> 0 1 2, order 2 -> 1 0 2; mean .5 .5 2; deviations .5 .5 0
    # profile: mean of sorted scores (90 60 10), (70 50 30) = 80 55 20; S(.5) = 67.5, S(2) = 20
    score, std = combine([np.array([90.0, 60.0, 10.0]), np.array([50.0, 70.0, 30.0])])
    np.testing.assert_allclose(score, [67.5, 67.5, 20.0])
    np.testing.assert_allclose(std, [0.5, 0.5, 0.0])


def test_one_scoring_is_left_as_it_is():
    score, std = combine([np.array([3.0, 99.0, 40.0])])
    assert score.tolist() == pytest.approx([3.0, 99.0, 40.0])
    assert std.tolist() == [0, 0, 0]
