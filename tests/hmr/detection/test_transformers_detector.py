"""COCO's keypoints as our joints, and the real transformers classes with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hmr.detection.embedded import load_detector
from hmr.detection.transformers_detector import (
    TransformersDetector,
    joints_from_coco,
    load_transformers_detector,
)
from hmr.types import JOINT_NAMES, Box, Camera, Sample
from tests.hmr.detection.detector_models import save_finder, save_pose, save_segmenter

BOX = Box(10.0, 20.0, 50.0, 100.0)
COCO = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "finder": save_finder(root / "finder"),
        "no person": save_finder(root / "chairs", {0: "chair", 1: "table"}),
        "pose": save_pose(root / "pose"),
        "pose with experts": save_pose(root / "experts", experts=6),
        "hands": save_pose(root / "hands", keypoints=21),
        "segmenter": save_segmenter(root / "segmenter"),
    }


def load(folders: dict[str, Path], *names: str) -> TransformersDetector:
    return load_transformers_detector(",".join(str(folders[name]) for name in names))


def test_joints_with_a_coco_keypoint_are_carried_over():
    keypoints = torch.arange(34, dtype=torch.float32).reshape(17, 2)
    confidence = torch.linspace(0.1, 0.9, 17)
    places, sigmas, sure = joints_from_coco(keypoints, torch.arange(1.0, 18.0), confidence, BOX)
    shared = set(COCO) & set(JOINT_NAMES)
    assert len(shared) == 12
    for name in shared:
        ours, theirs = JOINT_NAMES.index(name), COCO.index(name)
        assert places[ours].tolist() == keypoints[theirs].tolist()
        assert sigmas[ours] == theirs + 1
        assert sure[ours] == confidence[theirs]


def test_pelvis_and_neck_are_middles_as_sure_as_the_less_sure_side():
    keypoints, confidence = torch.zeros(17, 2), torch.ones(17)
    keypoints[11], keypoints[12] = torch.tensor([30.0, 50.0]), torch.tensor([20.0, 54.0])
    confidence[12], confidence[5] = 0.25, 0.75
    places, _, sure = joints_from_coco(keypoints, torch.ones(17), confidence, BOX)
    assert places[0].tolist() == [25.0, 52.0]  # (30 + 20) / 2, (50 + 54) / 2
    assert sure[0] == 0.25
    assert sure[JOINT_NAMES.index("neck")] == 0.75


def test_what_coco_lacks_is_said_to_be_unseen():
    _, sigmas, sure = joints_from_coco(torch.zeros(17, 2), torch.ones(17), torch.ones(17), BOX)
    lacking = {JOINT_NAMES[joint] for joint in (sure == 0).nonzero()[:, 0].tolist()}
    assert lacking == {
        "spine1", "spine2", "spine3", "left_foot", "right_foot", "left_collar", "right_collar", "head", "left_hand",
        "right_hand",
    }  # fmt: skip
    assert sigmas[JOINT_NAMES.index("head")] == 40  # half the box's longer side, 80


def test_people_found_are_of_the_class_person(folders: dict[str, Path]):
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    detector = load(folders, "finder", "pose", "segmenter")
    assert len(detector.find(pixels)) > 0
    chairs = TransformersDetector(
        "chairs",
        type(detector.finder)(detector.finder.model, detector.finder.processor, 0),
        detector.pose,
        detector.segmenter,
    )
    assert chairs.find(pixels) == []


def test_vitpose_with_experts_is_asked_for_coco(folders: dict[str, Path]):
    pixels = np.random.default_rng(0).integers(0, 255, (120, 90, 3), dtype=np.uint8)
    seen = load(folders, "finder", "pose with experts", "segmenter").detect(
        Sample("a", pixels, BOX, Camera.estimate(90, 120))
    )
    assert seen.visibility.max() > 0


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("no person", "pose", "segmenter"), "no class `person`"),
        (("finder", "hands", "segmenter"), "21 keypoints"),
        (("pose", "pose", "segmenter"), "cannot be loaded as AutoModelForObjectDetection"),
        (("finder", "pose", "finder"), "cannot be loaded as AutoModelForUniversalSegmentation"),
        (("finder", "pose", "segmenter", "pose"), "three parts"),
    ],
)
def test_models_that_do_not_serve_are_named(folders, names, says):
    with pytest.raises(ValueError, match=says):
        load(folders, *names)


def test_an_unknown_detector_is_told_the_known_ones(tiny_policy):
    with pytest.raises(ValueError, match=r"'yolo'.*embedded.*transformers"):
        load_detector("yolo", tiny_policy)
