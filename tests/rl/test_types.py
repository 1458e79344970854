import dataclasses

import pytest
import torch

from rl.types import PreferenceGroup
from tests.rl.toy import scored_group


def test_a_score_for_each_hypothesis():
    three = scored_group([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="2 scores for 3 hypotheses"):
        dataclasses.replace(three, scores=(1.0, 2.0))


def test_a_row_is_the_group():
    group = scored_group([1.5, None], condition=torch.tensor([1.0, 2.0, 3.0]), uses_truth=True)
    again = PreferenceGroup.from_row(group.to_row())
    assert again.scores == (1.5, None)
    assert again.uses_truth
    assert again.hypotheses.camera == group.hypotheses.camera
    assert torch.equal(again.condition, group.condition)
    assert again.hypotheses.params.body_pose.shape == (2, 23, 3)
