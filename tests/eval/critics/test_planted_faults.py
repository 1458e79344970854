"""Planted faults are what their names say, and the counts of the report are right."""

import json

import numpy as np
import pytest
import torch

from agent.types import QuestionCounts
from eval.critics.planted_faults import (
    FAULTS,
    TRUTH,
    PlantedGroup,
    PlantedScores,
    fault_report,
    planted_groups,
)
from hmr.body.joint_limits import limit_excess_rad
from hmr.body.model import load_body
from hmr.metrics.errors import mpjpe_mm
from hmr.types import JOINT_NAMES, BodyParams
from tests.agent.tools.tool_case import larger_body


@pytest.fixture(scope="module")
def groups() -> list[PlantedGroup]:
    return planted_groups(load_body(), 4)


def member(group: PlantedGroup, name: str) -> BodyParams:
    return group.hypotheses.params[group.names.index(name)]


def joints(params: BodyParams) -> torch.Tensor:
    return load_body().joints(params)


def test_every_group_holds_the_truth_and_one_of_each_fault(groups):
    for group in groups:
        assert sorted(group.names) == sorted([TRUTH, *FAULTS])
    assert len({group.names for group in groups}) > 1  # the order does not reveal the truth


def test_a_smaller_set_is_the_beginning_of_a_larger_one(groups):
    first, second = planted_groups(load_body(), 2)
    assert [first.sample.id, second.sample.id] == [group.sample.id for group in groups[:2]]
    assert second.names == groups[1].names


def test_a_bent_limb_is_beyond_its_limits_and_nothing_else_is_changed(groups):
    limbs = set()
    for group in groups:
        truth, bent = member(group, TRUTH), member(group, "bent_limb")
        excess = limit_excess_rad(bent.body_pose)
        moved = (bent.body_pose != truth.body_pose).any(dim=-1).nonzero().flatten().tolist()
        assert len(moved) == 1
        assert (
            torch.rad2deg(excess[moved[0]]) > 60
        )  # 80 degrees, less the few by which a knee or an elbow gives
        limbs.add(JOINT_NAMES[moved[0] + 1])
    assert limbs == {"left_knee", "right_knee", "left_elbow", "right_elbow"}


def test_swapping_keeps_the_outline_of_the_skeleton_and_exchanges_its_sides(groups):
    """From the front, before the body's own heading is applied, (x, y) of each joint is that of its mirror joint."""
    mirrored = [JOINT_NAMES.index(_mirror_joint(name)) for name in JOINT_NAMES]
    for group in groups:
        truth, swapped = member(group, TRUTH), member(group, "swapped")
        turn_back = -truth.global_orient
        before, after = (_in_body_frame(joints(params), turn_back) for params in (truth, swapped))
        expected = before[mirrored] * torch.tensor([1.0, 1.0, -1.0])
        # the rest skeleton itself is symmetric to a few millimetres only
        torch.testing.assert_close(after, expected, atol=0.02, rtol=0.0)


def _mirror_joint(name: str) -> str:
    side = {"left": "right", "right": "left"}
    first, _, rest = name.partition("_")
    return f"{side[first]}_{rest}" if first in side else name


def _in_body_frame(joints_cam_m: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    import roma

    return (joints_cam_m - joints_cam_m[0]) @ roma.rotvec_to_rotmat(turn).T


def test_floating_moves_up_and_off_image_moves_sideways(groups):
    for group in groups:
        camera, truth = group.hypotheses.camera, joints(member(group, TRUTH))
        lifted = joints(member(group, "floating")) - truth
        torch.testing.assert_close(
            lifted, torch.tensor([0.0, -0.4, 0.0]).expand_as(lifted), atol=1e-5, rtol=0.0
        )
        aside = camera.project(joints(member(group, "off_image"))) - camera.project(truth)
        assert abs(float(aside[0, 0])) == pytest.approx(camera.width / 2, abs=0.1)
        assert float(aside[0, 1]) == pytest.approx(0.0, abs=0.1)


def test_the_wrong_pose_is_at_the_persons_position(groups):
    body = load_body()
    for group in groups:
        truth, wrong = (body(member(group, name)) for name in (TRUTH, "wrong_pose"))
        assert torch.allclose(truth.joints_cam_m[0], wrong.joints_cam_m[0], atol=1e-5)
        assert float(mpjpe_mm(wrong.joints_cam_m, truth.joints_cam_m)) > 50


def scored(**scores: float | None) -> PlantedScores:
    return PlantedScores("scene", scores, dict.fromkeys(scores, ""), "", QuestionCounts(), (), "")


NAMES = (TRUTH, *FAULTS)


def test_counts_of_a_worked_example():
    ranks = scored(truth=90.0, bent_limb=10.0, swapped=80.0, floating=20.0, off_image=5.0, wrong_pose=40.0)
    misses = scored(truth=50.0, bent_limb=60.0, swapped=50.0, floating=20.0, off_image=30.0, wrong_pose=40.0)
    ties = scored(**dict.fromkeys(NAMES, 50.0))
    unscored = scored(**{**dict.fromkeys(NAMES, 50.0), "floating": None})
    found = fault_report([ranks, misses, ties, unscored])
    assert (found.groups, found.judged, found.truth_first) == (4, 3, 1)
    assert found.below_truth == {"bent_limb": 1, "swapped": 1, "floating": 2, "off_image": 2, "wrong_pose": 2}
    assert found.last == {
        "bent_limb": 0,
        "swapped": 0,
        "floating": 1,
        "off_image": 1,
        "wrong_pose": 0,
        TRUTH: 0,
    }


def test_a_group_without_all_its_scores_has_no_ranking():
    unscored = scored(truth=None, bent_limb=1.0)
    assert (unscored.ranking, unscored.first, unscored.last) == ([], "", "")
    assert json.loads(json.dumps(unscored.to_json()))["scores"] == {"truth": None, "bent_limb": 1.0}


def test_another_body_has_a_set_of_its_own(groups):
    (other,) = planted_groups(larger_body(), 1)
    assert other.names == groups[0].names
    assert other.sample.id != groups[0].sample.id


@pytest.mark.slow
def test_a_sheet_shows_six_hypotheses_best_first(groups):
    from eval.critics.planted_faults import fault_sheet
    from hmr.render.raster import RasterRenderer

    scores = {name: float(place) for place, name in enumerate(NAMES)}
    sheet = fault_sheet(groups[0], scored(**scores), load_body(), RasterRenderer(), 1.25)
    height, width, _ = sheet.shape
    assert width > height  # two columns of three wide panels
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000
