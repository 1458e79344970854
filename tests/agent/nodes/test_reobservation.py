"""Re-observation: what it measures, and what its evidence replaces."""

import dataclasses

import numpy as np
import pytest
import torch

from agent.nodes.reobservation import (
    LATER_EVIDENCE,
    VIEWS,
    latest,
    reobserved_evidence,
    score_weighted_consensus,
)
from agent.types import Case, Evidence
from hmr.types import Detection
from tests.agent.tools.tool_case import case_of, group_of


class CountingDetector:
    """Returns the same detection for every crop, mirrored or not, and counts its calls."""

    name = "counting"

    def __init__(self, detection: Detection) -> None:
        self.detection, self.calls = detection, 0

    def find(self, image):
        return []

    def detect(self, sample):
        self.calls += 1
        return self.detection


ALL = ["reprojection", "keypoint_layout", "pose_reading", "silhouette"]


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of(group_of())


def test_reobservation_keeps_the_names_of_metrics(case):
    detector = CountingDetector(case.detection)
    found = reobserved_evidence(case, detector, 0, ALL)
    assert detector.calls == 2 * VIEWS - 1  # the case holds the first
    assert [item.metric for item in found] == [
        "reprojection_percent_of_box", "layout_percent_of_box", "pose_reading_mm"
    ]  # fmt: skip
    assert {item.tool for item in found} == {LATER_EVIDENCE}


def test_a_detector_without_3d_joints_gives_keypoint_metrics_only(case):
    flat = dataclasses.replace(case.detection, joints_root_m=None)
    found = reobserved_evidence(dataclasses.replace(case, detection=flat), CountingDetector(flat), 0, ALL)
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
def test_reobservation_runs_only_tools_of_the_agent(case, tools, metrics):
    detector = CountingDetector(case.detection)
    assert [item.metric for item in reobserved_evidence(case, detector, 0, tools)] == metrics
    assert (detector.calls > 0) == bool(metrics)  # without a tool that needs it the detector does not run


def test_the_latest_evidence_replaces_the_first():
    def evidence(tool: str, metric: str, value: float) -> Evidence:
        return Evidence(tool, metric, "mm", (value,), ((),), ("",))

    first = [evidence("pose_reading", "a_mm", 1.0), evidence("shape", "b_mm", 2.0)]
    again = [evidence(LATER_EVIDENCE, "a_mm", 3.0), evidence(LATER_EVIDENCE, "new_mm", 4.0)]
    # a_mm was measured again, b_mm was not; new_mm was not measured before scoring
    assert [(item.metric, item.values) for item in latest([*first, *again])] == [
        ("a_mm", (3.0,)),
        ("b_mm", (2.0,)),
    ]
    assert latest(first) == first


def test_the_weighted_consensus_is_nearest_to_the_best_scored(case):
    best_is_0 = np.array(score_weighted_consensus(case, torch.tensor([90.0, 10.0, 10.0])).values, float)
    best_is_2 = np.array(score_weighted_consensus(case, torch.tensor([10.0, 10.0, 90.0])).values, float)
    assert best_is_0[0] < best_is_2[0]
    assert best_is_2[2] < best_is_0[2]
