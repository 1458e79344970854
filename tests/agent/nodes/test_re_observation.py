"""What reflection buys, and what it replaces."""

import dataclasses

import numpy as np
import pytest
import torch

from agent.nodes.re_observation import SECOND_LOOK, VIEWS, latest, look_again, score_weighted_consensus
from agent.types import Case, Evidence
from hmr.types import Detection
from tests.agent.tools.tool_case import case_of, group_of


class Looking:
    """Sees the same at every look, mirrored or not, and counts the looks."""

    name = "looking"

    def __init__(self, detection: Detection) -> None:
        self.detection, self.looks = detection, 0

    def find(self, image):
        return []

    def detect(self, sample):
        self.looks += 1
        return self.detection


ALL = ["reprojection", "keypoint_layout", "pose_reading", "silhouette"]


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of(group_of())


def test_a_second_look_measures_again_under_the_first_names(case):
    detector = Looking(case.detection)
    found = look_again(case, detector, 0, ALL)
    assert detector.looks == 2 * VIEWS - 1  # the case holds the first
    assert [item.metric for item in found] == [
        "reprojection_percent_of_box", "layout_percent_of_box", "pose_reading_mm"
    ]  # fmt: skip
    assert {item.tool for item in found} == {SECOND_LOOK}


def test_a_detector_that_reads_no_joints_in_space_buys_keypoints_alone(case):
    flat = dataclasses.replace(case.detection, joints_root_m=None)
    found = look_again(dataclasses.replace(case, detection=flat), Looking(flat), 0, ALL)
    assert "pose_reading_mm" not in {item.metric for item in found}
    assert len(found) == 2


@pytest.mark.parametrize(
    ("tools", "metrics"),
    [
        (["pose_reading", "silhouette"], ["pose_reading_mm"]),
        (["keypoint_layout"], ["layout_percent_of_box"]),
        (["group_consensus", "silhouette"], []),
    ],
)
def test_a_second_look_measures_only_what_the_agent_has(case, tools, metrics):
    detector = Looking(case.detection)
    assert [item.metric for item in look_again(case, detector, 0, tools)] == metrics
    assert (detector.looks > 0) == bool(metrics)  # looks that nobody reads are not bought


def test_what_was_measured_last_takes_the_place_of_what_was_measured_first():
    def said(tool: str, metric: str, value: float) -> Evidence:
        return Evidence(tool, metric, "mm", (value,), ((),), ("",))

    first = [said("pose_reading", "a_mm", 1.0), said("shape", "b_mm", 2.0)]
    bought = [said(SECOND_LOOK, "a_mm", 3.0), said(SECOND_LOOK, "new_mm", 4.0)]
    # a was measured again, b was not; "new" nobody measured before there were scores
    assert [(item.metric, item.values) for item in latest([*first, *bought])] == [
        ("a_mm", (3.0,)),
        ("b_mm", (2.0,)),
    ]
    assert latest(first) == first


def test_the_weighted_consensus_leans_to_the_best_scored(case):
    best_is_0 = np.array(score_weighted_consensus(case, torch.tensor([90.0, 10.0, 10.0])).values, float)
    best_is_2 = np.array(score_weighted_consensus(case, torch.tensor([10.0, 10.0, 90.0])).values, float)
    assert best_is_0[0] < best_is_2[0]
    assert best_is_2[2] < best_is_0[2]
