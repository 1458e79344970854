"""What each arrangement tool reports of two or three standing people, and how it becomes a score."""

import dataclasses
import re

import pytest
import torch

from agent.arrangement.common_ground import CommonGround
from agent.arrangement.common_scale import MEAN_M, CommonScale, standing_height_m
from agent.arrangement.interpenetration import TOUCH_M, Interpenetration
from agent.arrangement.measure import TOOLS, measure
from agent.arrangement.occlusion_order import OcclusionOrder
from agent.arrangement.scoring import NOTHING_WRONG, score_evidence
from agent.arrangement.types import Arrangement, ArrangementEvidence
from agent.types import Missing
from tests.agent.arrangement.placed_people import (
    FAR,
    NEAR,
    perfect_detections,
    placed,
    posed,
    scaled,
    standing_at,
    true_pair,
    true_params,
)
from tests.agent.tools.tool_case import body

NOBODY = (None, None, None)


def beside(gap_m: float) -> float:
    """Interpenetration of two people whose pelvises are `gap_m` apart, one behind the other."""
    pair = posed(standing_at(0.0, 3.4), standing_at(0.0, 3.4 + gap_m))
    return Interpenetration().measure(placed(pair)).value or 0.0


def test_bodies_may_touch_and_go_deeper_the_nearer_they_are():
    assert beside(0.6) == 0.0
    assert 0 < beside(0.15) < beside(0.08)
    assert beside(0.001) > 1000 * TOUCH_M


def test_each_pair_of_people_counts_in_interpenetration():
    two = posed(standing_at(0.0, 3.4), standing_at(0.0, 3.5))
    three = posed(standing_at(0.0, 3.4), standing_at(0.0, 3.5), standing_at(3.0, 9.0))
    value = Interpenetration().measure(placed(two)).value
    with_a_third = Interpenetration().measure(placed(three, NOBODY))
    assert with_a_third.value == pytest.approx(value, rel=1e-3)
    assert set(with_a_third.people) == {0, 1}


def test_the_truth_hides_as_the_photograph_shows_and_an_exchange_the_other_way():
    exchanged = placed(scaled(posed(*true_params()), 4.6 / 3.4, 3.4 / 4.6))
    truth, wrong = OcclusionOrder().measure(true_pair()), OcclusionOrder().measure(exchanged)
    assert truth.value < 5
    assert wrong.value > 80
    assert wrong.sentence == "{1} is placed before {0}, but the photograph shows the opposite."


@pytest.mark.parametrize("hidden", ["masks", "keypoints"])
def test_masks_or_keypoints_alone_contradict_the_order(hidden):
    def without(detection):
        if hidden == "masks":
            return dataclasses.replace(detection, mask=None, mask_box=None)
        return dataclasses.replace(detection, sigma_px=torch.full_like(detection.sigma_px, torch.inf))

    known = [without(one) for one in perfect_detections()]
    pair = posed(*true_params())
    assert OcclusionOrder().measure(placed(pair, known)).value < 15
    exchanged = scaled(pair, 4.6 / 3.4, 3.4 / 4.6)
    assert OcclusionOrder().measure(placed(exchanged, known)).value > 50


def test_a_detection_that_is_hardly_of_a_person_contradicts_nothing():
    unsure = [dataclasses.replace(one, confidence=0.1) for one in perfect_detections()]
    exchanged = placed(scaled(posed(*true_params()), 4.6 / 3.4, 3.4 / 4.6), unsure)
    assert OcclusionOrder().measure(exchanged).value is None


def test_people_who_do_not_overlap_have_no_visible_order():
    apart = placed(posed(standing_at(-1.0, 4.0), standing_at(1.0, 4.0)))
    evidence = OcclusionOrder().measure(apart)
    assert (evidence.value, evidence.people) == (None, ())


def test_a_floating_person_is_more_certain_beside_another_than_far_behind():
    beside_it = placed(posed(standing_at(-0.6, 4.0), standing_at(0.6, 4.0, height_m=0.5)))
    far_behind = placed(posed(standing_at(-0.6, 4.0), standing_at(0.6, 9.0, height_m=0.5)))
    near, far = (CommonGround().measure(people) for people in (beside_it, far_behind))
    assert near.value > 2.5
    assert far.value < near.value / 2
    assert near.sentence.startswith("{1} is 5")
    assert " mm above the floor of {0} (uncertain by " in near.sentence


def test_the_floating_one_of_three_is_named_with_the_gap():
    three = posed(standing_at(-0.8, 4.0), standing_at(0.8, 4.2), standing_at(0.0, 4.1, height_m=0.6))
    evidence = CommonGround().measure(placed(three, NOBODY))
    assert evidence.people == (2,)
    gap_mm = int(re.fullmatch(r"\{2\} is (\d+) mm above the floor of the others .*", evidence.sentence)[1])
    assert gap_mm == pytest.approx(600, abs=60)


def test_the_height_does_not_depend_on_pose_or_distance_and_follows_the_scale():
    bent = dataclasses.replace(standing_at(0.0, 4.0), body_pose=torch.full((23, 3), 0.2))
    joints_m = posed(standing_at(0.0, 4.0), standing_at(1.0, 8.0), bent).joints_cam_m
    heights = standing_height_m(body(), joints_m)
    assert heights.tolist() == pytest.approx([MEAN_M] * 3, abs=0.03)
    assert standing_height_m(body(), 1.5 * joints_m).tolist() == pytest.approx((1.5 * heights).tolist())


def test_the_giant_is_named_with_its_distance():
    evidence = CommonScale().measure(placed(scaled(posed(*true_params()), 1.0, 1.5)))
    assert evidence.people == (FAR,)
    assert evidence.sentence == "At 6.9 m {1} would be 2.53 m tall."


def test_the_truth_scores_higher_than_each_fault_and_the_comment_names_the_people():
    pair = posed(*true_params())
    faults = {
        "exchanged": scaled(pair, 4.6 / 3.4, 3.4 / 4.6),
        "one in the other": posed(standing_at(-0.15, 3.4), standing_at(0.0, 3.45)),
        "floating": posed(standing_at(-0.15, 3.4), standing_at(0.15, 4.6, height_m=0.9)),
    }
    truth = score_evidence(measure(true_pair(), (0, 1))[0])
    assert truth.score > 90
    assert truth.comment == NOTHING_WRONG
    for name, wrong in faults.items():
        verdict = score_evidence(measure(placed(wrong), (4, 9))[0])
        assert verdict.score < 65, name
        assert "erson 4" in verdict.comment or "erson 9" in verdict.comment


def test_what_could_not_be_measured_has_no_penalty():
    evidence = [
        ArrangementEvidence("t", "occlusion_order_percent", "%", None, (), "Nothing overlaps."),
        ArrangementEvidence("mine", "unknown_metric", "1", 1e9, (), "A tool of a user."),
    ]
    assert score_evidence(evidence).score == 100.0


class Broken:
    name = "broken"

    def measure(self, people):
        raise RuntimeError("no such tensor")


class Infinite:
    name = "infinite"

    def measure(self, people):
        return ArrangementEvidence("infinite", "x", "1", float("inf"), (), "Endless.")


def test_a_tool_that_fails_is_missing_and_the_others_measure():
    evidence, missing = measure(true_pair(), (0, 1), (*TOOLS, Broken(), Infinite()))
    assert [item.tool for item in evidence] == [tool.name for tool in TOOLS]
    assert missing == [
        Missing("broken", "RuntimeError: no such tensor", broken=True),
        Missing("infinite", "ValueError: gave a value that is not a finite number", broken=True),
    ]


def test_evidence_names_people_by_their_numbers():
    evidence = ArrangementEvidence("t", "m", "1", 1.0, (NEAR,), "{0} hides {1}.").for_people((2, 5))
    assert (evidence.people, evidence.sentence) == ((2,), "Person 2 hides person 5.")


def test_an_arrangement_has_one_hypothesis_per_person():
    with pytest.raises(ValueError, match="not 1 for 2 people"):
        Arrangement((0, 1), (3,))
