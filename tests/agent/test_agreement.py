"""Agreement of scores with errors, by worked sums."""

import pytest

from agent.agreement import group_kendall, group_spearman, mean_agreement, pooled_pearson


def test_the_best_score_on_the_least_error_is_full_agreement():
    assert group_spearman([90.0, 50.0, 10.0], [20.0, 40.0, 80.0]) == pytest.approx(1.0)
    assert group_kendall([90.0, 50.0, 10.0], [80.0, 40.0, 20.0]) == pytest.approx(-1.0)


def test_spearman_and_kendall_of_one_swap():
    # error ranks 0 1 2 3, score places 0 2 1 3: d^2 = 0 1 1 0, rho = 1 - 6 * 2 / (4 * 15) = .8;
    # 5 concordant pairs, 1 discordant: tau = 4 / 6
    scores, errors = [9.0, 7.0, 8.0, 1.0], [10.0, 20.0, 30.0, 40.0]
    assert group_spearman(scores, errors) == pytest.approx(0.8)
    assert group_kendall(scores, errors) == pytest.approx(2 / 3)


def test_pearson_is_pooled_after_each_group_is_standardised():
    # the same straight line at two scales; pooled raw values would not lie on one
    groups = [([3.0, 2.0, 1.0], [10.0, 20.0, 30.0]), ([90.0, 80.0, 70.0], [1.0, 2.0, 3.0])]
    assert pooled_pearson(groups) == pytest.approx(1.0)


def test_a_missing_score_is_left_out_of_the_ranking_and_counted():
    agreement = mean_agreement([([90.0, None, 50.0, 10.0], [20.0, 1.0, 40.0, 80.0])])
    assert agreement.srcc == pytest.approx(1.0)
    assert agreement.none_rate == 0.25


@pytest.mark.parametrize("scores", [[None, None, None], [50.0, 50.0, 50.0], [1.0, 2.0, None]])
def test_an_undefined_agreement_is_none(scores):
    errors = [1.0, 2.0, 3.0]
    assert group_spearman(scores, errors) is None
    assert mean_agreement([(scores, errors)]).srcc is None
