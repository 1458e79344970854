"""Plausibility and agreement with the image, on bodies whose faults are known, and in a report."""

import dataclasses

import numpy as np
import pytest
import torch

from eval.benchmark.measures.body_measures import BODY_MEASURES, BodyMeasures
from eval.benchmark.measures.image_agreement import silhouette_iou
from eval.benchmark.protocol import evaluate_policy
from eval.benchmark.report_cache import load_report, save_report
from hmr.body.model import Body
from hmr.policy.policy import DiffusionPolicy
from hmr.render.raster import RasterRenderer
from hmr.synthetic.recipe import STREET
from hmr.synthetic.scenes import SceneMaker
from hmr.types import JOINT_NAMES, NUM_JOINTS, BodyParams, Detection, Labelled, Sample

LEFT_KNEE, LEFT_ELBOW = 3, 17  # rows of `body_pose`


@pytest.fixture(scope="module")
def standing(body: Body) -> Labelled:
    """A scene of `street` whose person stands upright before a level camera."""
    case = SceneMaker(body, STREET, seed=5).chunk(0, 1)[0].labelled
    upright = torch.tensor([torch.pi, 0.0, 0.0])  # the body's y points up, the camera's down
    pose = torch.zeros(23, 3)
    params = BodyParams(upright, pose, torch.zeros(10), torch.tensor([0.0, 0.3, 4.0]))
    joints = body.joints(params)
    camera = case.sample.camera
    posed = body(BodyParams.stack([params]))
    mask = RasterRenderer().render(posed.vertices_cam_m.numpy(), body.faces.numpy(), camera).mask[0]
    truth = dataclasses.replace(
        case.truth, params=params, camera=camera, joints_cam_m=joints, keypoints_px=camera.project(joints),
        visible=torch.ones(NUM_JOINTS, dtype=torch.bool), mask=mask,
    )  # fmt: skip
    return Labelled(case.sample, truth)


class ExactDetector:
    """Reports the true keypoints of one scene, moved by 10 % of the box."""

    name = "exact"

    def __init__(self, case: Labelled) -> None:
        self.case, self.calls = case, 0

    def find(self, image: np.ndarray) -> list:
        return []

    def detect(self, sample: Sample) -> Detection:
        self.calls += 1
        moved_px = self.case.truth.keypoints_px + torch.tensor([0.1 * sample.box.side, 0.0])
        return Detection.from_points(JOINT_NAMES, moved_px, torch.ones(NUM_JOINTS), torch.ones(NUM_JOINTS))


@pytest.fixture
def measures(body: Body, standing: Labelled) -> BodyMeasures:
    return BodyMeasures(body, RasterRenderer(), ExactDetector(standing))


def measured(measures: BodyMeasures, case: Labelled, params: BodyParams) -> dict[str, float]:
    values = measures(case, BodyParams.stack([params]))
    return {metric: value["first10"] for metric, value in values.items()}


def turned(params: BodyParams, row: int, axis: int, radians: float) -> BodyParams:
    pose = params.body_pose.clone()
    pose[row, axis] += radians
    return dataclasses.replace(params, body_pose=pose)


def test_the_truth_has_no_fault(measures: BodyMeasures, standing: Labelled):
    values = measured(measures, standing, standing.truth.params)
    assert set(values) == set(BODY_MEASURES)
    assert values["silhouette_iou"] == 1.0
    for metric in ("joint_limit_excess_deg", "floating_mm", "sinking_mm", "reprojection_true_percent"):
        assert values[metric] == pytest.approx(0.0, abs=1e-2)
    # 10 % of the box, bounded robustly: 10 / sqrt(1 + (10 / 25)^2)
    assert values["reprojection_detected_percent"] == pytest.approx(9.285, abs=0.01)


def test_the_true_body_is_measured_in_its_own_camera(measures: BodyMeasures, standing: Labelled):
    """The estimated camera of a wild image would project it elsewhere."""
    camera = standing.truth.camera
    estimated = dataclasses.replace(camera, focal_px=1.3 * camera.focal_px)
    sample = dataclasses.replace(standing.sample, camera=estimated)
    values = measures.of_truth(Labelled(sample, standing.truth))
    assert values["silhouette_iou"]["first10"] == 1.0
    assert values["reprojection_true_percent"]["first10"] == pytest.approx(0.0, abs=1e-2)


def test_a_knee_bent_forwards_exceeds_its_limits(measures: BodyMeasures, standing: Labelled):
    bent = turned(standing.truth.params, LEFT_KNEE, 0, -1.0)
    assert measured(measures, standing, bent)["joint_limit_excess_deg"] > 20


def test_a_body_that_is_moved_keeps_its_height_but_leaves_its_outline(
    measures: BodyMeasures, standing: Labelled
):
    truth = standing.truth.params
    moved = dataclasses.replace(truth, transl=truth.transl + torch.tensor([0.2, -0.3, 0.0]))
    values = measured(measures, standing, moved)
    assert values["floating_mm"] == pytest.approx(0.0, abs=1e-2)
    assert values["sinking_mm"] == pytest.approx(0.0, abs=1e-2)
    assert values["silhouette_iou"] < 0.7
    assert values["reprojection_true_percent"] > 5


def test_bent_legs_float_and_a_true_floor_that_is_higher_is_sunk_into(
    measures: BodyMeasures, standing: Labelled
):
    """Both knees bent backwards by 90 degrees lift the feet by the length of the shins; and the other way round."""
    straight = standing.truth.params
    bent = turned(turned(straight, LEFT_KNEE, 0, 1.57), LEFT_KNEE + 1, 0, 1.57)
    values = measured(measures, standing, bent)
    assert 200 < values["floating_mm"] < 500
    assert values["sinking_mm"] == 0
    joints_m = measures.body.joints(bent)
    truth = dataclasses.replace(standing.truth, params=bent, joints_cam_m=joints_m)
    swapped = measured(measures, Labelled(standing.sample, truth), straight)
    assert swapped["sinking_mm"] == pytest.approx(values["floating_mm"], abs=0.1)


def test_the_overlap_of_two_masks_without_what_is_hidden():
    true = np.array([[True, True, False, False]])
    mask = np.array([[[False, True, True, True]]])
    nothing, last = np.zeros((1, 4), bool), np.array([[False, False, False, True]])
    assert silhouette_iou(mask, true, nothing) == pytest.approx([1 / 4])
    assert silhouette_iou(mask, true, last) == pytest.approx([1 / 3])


def test_a_report_holds_them_and_is_cached_with_them(
    tiny_policy: DiffusionPolicy, body: Body, standing: Labelled, measures: BodyMeasures, tmp_path
):
    reports = [
        evaluate_policy(
            tiny_policy, body, [standing], num_samples=12, group_size=3, seed=seed, measures=measures
        )
        for seed in (0, 1)
    ]
    assert measures.detector.calls == 1  # pyright: ignore[reportAttributeAccessIssue]
    assert all(reports[0].values[metric]["first10"].shape == (1,) for metric in BODY_MEASURES)
    save_report(tmp_path / "report.npz", reports[0], {"seed": 0})
    loaded = load_report(tmp_path / "report.npz", {"seed": 0})
    assert loaded is not None
    for metric in BODY_MEASURES:
        np.testing.assert_equal(loaded.values[metric]["first10"], reports[0].values[metric]["first10"])
