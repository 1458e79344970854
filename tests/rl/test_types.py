import dataclasses

import pytest
import torch

from rl.preferences.tensors import GroupTensors
from rl.types import PreferenceGroup
from tests.rl.toy import scored_group


def test_advantages_standardise_within_the_group():
    found = scored_group([1.0, 2.0, 3.0, 6.0]).advantages()
    # mean 3; squared deviations 4, 1, 0, 9; population std sqrt(14 / 4) = 1.870829
    expected = torch.tensor([-2.0, -1.0, 0.0, 3.0]) / 1.870829
    torch.testing.assert_close(found.values, expected)
    assert found.mask.all()


def test_a_missing_score_counts_for_nothing():
    found = scored_group([1.0, None, 3.0]).advantages()
    assert found.values.tolist() == [-1.0, 0.0, 1.0]  # mean 2, population std 1
    assert found.mask.tolist() == [True, False, True]


def test_advantages_are_clipped():
    # 1 of n apart: the largest advantage is sqrt(n - 1), here 10 -> 5
    found = scored_group([0.0] * 100 + [1.0]).advantages(clip=5.0)
    assert found.values.max() == 5.0
    assert scored_group([0.0] * 100 + [1.0]).advantages(clip=20.0).values.max() == pytest.approx(10.0)


@pytest.mark.parametrize(
    "scores", [[2.0, 2.0, 2.0], [0.1 + 0.2, 0.3, 0.3], [None, None, None], [None, 4.0, None]]
)
def test_a_group_that_tells_nothing_is_masked(scores):
    found = scored_group(scores).advantages()
    assert not found.mask.any()
    assert not found.values.any()


def test_a_tiny_std_is_masked_in_the_unit_of_the_scores():
    scores = [50.0, 50.5, 51.0]  # population std .408
    assert scored_group(scores).advantages(min_std=0.4).mask.all()
    assert not scored_group(scores).advantages(min_std=0.41).mask.any()


def test_the_floor_of_a_set_follows_its_median_group():
    stds = [0.1, 10.0, 20.0]  # of [-s, s]; a tenth of the median is 1
    groups = [[-std, std] for std in stds]
    for scale in (1.0, 1000.0):
        scaled = [[scale * score for score in group] for group in groups]
        tensors = GroupTensors.from_scores(torch.zeros(3, 1), torch.zeros(3, 2, 1), scaled)
        assert tensors.mask.any(dim=-1).tolist() == [False, True, True]


def test_a_score_for_each_hypothesis():
    three = scored_group([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="2 scores for the 3 hypotheses"):
        dataclasses.replace(three, scores=(1.0, 2.0))


def test_a_row_is_the_group():
    group = scored_group([1.5, None], condition=torch.tensor([1.0, 2.0, 3.0]), uses_truth=True)
    again = PreferenceGroup.from_row(group.to_row())
    assert again.scores == (1.5, None)
    assert again.uses_truth
    assert again.hypotheses.camera == group.hypotheses.camera
    assert torch.equal(again.condition, group.condition)
    assert again.hypotheses.params.body_pose.shape == (2, 23, 3)
