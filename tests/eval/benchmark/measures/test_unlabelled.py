"""Measures of hypotheses without ground truth, for bodies whose places are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from eval.benchmark.measures.unlabelled import measure_unlabelled
from hmr.body.model import Body
from hmr.render import load_renderer
from hmr.types import NUM_JOINTS, NUM_POINTS, BodyParams, Box, Camera, Detection, Hypotheses, Sample

CAMERA = Camera(200.0, 50.0, 50.0, 100, 100)
BOX = Box(20.0, 10.0, 80.0, 90.0)
SHIFT_M, DEPTH_M = 0.1, 5.0  # of the second hypothesis, to the right: 4 px there


@pytest.fixture
def group(body: Body) -> Hypotheses:
    upright = torch.tensor([[torch.pi, 0.0, 0.0]]).repeat(2, 1)
    places = torch.tensor([[0.0, 0.0, DEPTH_M], [SHIFT_M, 0.0, DEPTH_M]])
    return Hypotheses(BodyParams(upright, torch.zeros(2, 23, 3), torch.zeros(2, 10), places), CAMERA)


@pytest.fixture
def exact(body: Body, group: Hypotheses) -> Detection:
    """The joints of the first hypothesis."""
    joints_px = CAMERA.project(body.joints(group.params))[0]
    points = torch.cat([joints_px, torch.zeros(NUM_POINTS - NUM_JOINTS, 2)])
    ones = torch.ones(NUM_POINTS)
    return Detection(points, ones, ones, 0 * ones, ones)


def measure(body: Body, group: Hypotheses, detection: Detection, annotated: Detection | None = None):
    sample = Sample("a", np.zeros((100, 100, 3), np.uint8), BOX, CAMERA, detection)
    return measure_unlabelled(sample, group, body, load_renderer(), annotated)


def test_distances_are_in_pixels_and_in_percent_of_the_box(
    body: Body, group: Hypotheses, exact: Detection
) -> None:
    measures = measure(body, group, exact, annotated=exact)
    assert measures["reprojection_px"]["hyp0"] == pytest.approx(0.0, abs=1e-3)
    mean_px = SHIFT_M * CAMERA.focal_px / DEPTH_M / 2  # of both hypotheses
    assert measures["reprojection_px"]["mean"] == pytest.approx(mean_px, rel=0.05)
    percent = measures["reprojection_percent"]["mean"]
    assert percent == pytest.approx(100 * measures["reprojection_px"]["mean"] / BOX.side)
    assert measures["annotated_px"] == measures["reprojection_px"]


def test_hidden_joints_of_a_detector_are_left_out_and_annotated_ones_are_not(
    body: Body, group: Hypotheses, exact: Detection
) -> None:
    wrong = exact.points_px.clone()
    wrong[3] += 1000.0
    hidden = torch.ones(NUM_POINTS)
    hidden[3] = 0.3
    points = dataclasses.replace(exact, points_px=wrong, visibility=hidden)
    measures = measure(body, group, points, annotated=points)
    assert measures["reprojection_px"]["hyp0"] == pytest.approx(0.0, abs=1e-3)
    assert measures["annotated_px"]["hyp0"] > 50
    nowhere = dataclasses.replace(exact, visibility=torch.zeros(NUM_POINTS))
    assert "reprojection_px" not in measure(body, group, nowhere)


def test_equal_poses_have_no_spread_and_nothing_is_beyond_a_limit(
    body: Body, group: Hypotheses, exact: Detection
) -> None:
    measures = measure(body, group, exact)
    assert measures["spread_mm"]["group"] == pytest.approx(0.0, abs=1e-3)
    assert "annotated_px" not in measures
    assert "silhouette_mismatch" not in measures  # the detection has no mask
    bent = group.params.body_pose.clone()
    bent[1, 3, 0] = -1.5  # the left knee, forwards
    wrong = Hypotheses(dataclasses.replace(group.params, body_pose=bent), CAMERA)
    beyond, before = (measure(body, each, exact)["joint_limit_excess_deg"] for each in (wrong, group))
    assert beyond["hyp0"] == before["hyp0"]
    assert beyond["mean"] > before["mean"] + 20
    assert measure(body, wrong, exact)["spread_mm"]["group"] > 1


def test_a_mask_is_compared_with_the_silhouette(body: Body, group: Hypotheses, exact: Detection) -> None:
    everywhere = dataclasses.replace(exact, mask=np.ones((8, 8), np.float32), mask_box=BOX)
    mismatch = measure(body, group, everywhere)["silhouette_mismatch"]
    assert 0 < mismatch["hyp0"] < 1
