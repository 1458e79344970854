import pytest
import torch

from hmr.metrics.pck import PCK_THRESHOLDS, box_sides_px, pck, pck_by_joint
from hmr.types import Box

# Two people in boxes of side 100 and 200, three joints; distances in pixels:
#            joint 0    joint 1    joint 2
# person 0      4          6       unknown
# person 1      8         25       unknown
TRUE = torch.zeros(2, 3, 2)
PRED = torch.tensor([[[4.0, 0.0], [0.0, 6.0], [0.0, 0.0]], [[0.0, 8.0], [15.0, 20.0], [0.0, 0.0]]])
KNOWN = torch.tensor([[True, True, False], [True, True, False]])
SIDES = box_sides_px([Box(0.0, 0.0, 100.0, 50.0), Box(0.0, 0.0, 10.0, 200.0)])


def test_worked_shares_per_joint():
    # at .05 the limits are 5 and 10: joint 0 is correct twice, joint 1 never; at .1 they are 10 and 20: joint 1 once;
    # at .2 they are 20 and 40: joint 1 twice
    at_05, at_10, at_20 = (pck_by_joint(PRED, TRUE, KNOWN, SIDES, t) for t in PCK_THRESHOLDS)
    assert at_05[:2].tolist() == [1.0, 0.0]
    assert at_10[:2].tolist() == [1.0, 0.5]
    assert at_20[:2].tolist() == [1.0, 1.0]
    assert at_05[2].isnan()


def test_the_mean_is_over_joints_with_labels():
    assert pck(PRED, TRUE, KNOWN, SIDES, 0.1).item() == 0.75
    # joint 1 of person 1 unlabelled: joint 0 twice of two, joint 1 once of one
    fewer = KNOWN.clone()
    fewer[1, 1] = False
    assert pck(PRED, TRUE, fewer, SIDES, 0.1).item() == 1.0


def test_a_joint_on_the_limit_is_not_correct():
    assert pck(TRUE + torch.tensor([5.0, 0.0]), TRUE, KNOWN, SIDES[:1].expand(2), 0.05).item() == 0.0


def test_pck_without_known_keypoints_is_refused():
    with pytest.raises(ValueError, match="at least one known"):
        pck(PRED, TRUE, torch.zeros_like(KNOWN), SIDES, 0.05)
