"""The real transformers classes with random weights."""

from pathlib import Path

import numpy as np
import pytest

from hmr.body.keypoint_orders import COCO_17
from hmr.detection.loading import load_detector
from hmr.detection.simulated import SimulatedDetector
from hmr.detection.transformers_detector import (
    TransformersDetector,
    load_transformers_detector,
)
from hmr.types import POINT_NAMES, Box, Camera, Sample
from tests.hmr.detection.detector_models import save_finder, save_pose, save_segmenter

BOX = Box(10.0, 20.0, 50.0, 100.0)


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


def test_a_detection_has_the_points_of_coco_and_no_others(folders: dict[str, Path]):
    pixels = np.random.default_rng(0).integers(0, 255, (120, 90, 3), dtype=np.uint8)
    sample = Sample("a", pixels, BOX, Camera.estimate(90, 120))
    found = load(folders, "finder", "pose", "segmenter").detect(sample)
    assert {name for name, seen in zip(POINT_NAMES, found.observed.tolist(), strict=True) if seen} == set(
        COCO_17
    )
    better_half = found.visibility[found.observed].sort().values[8:]
    assert found.confidence == pytest.approx(float(better_half.mean()))


def test_networks_are_put_on_the_device(monkeypatch: pytest.MonkeyPatch):
    asked = []
    for loader in ("transformers_detector.load_transformers_detector", "blazepose.detector.load_blazepose"):
        monkeypatch.setattr(
            f"hmr.detection.{loader}", lambda *words: asked.append(words) or SimulatedDetector()
        )
    load_detector("transformers:a,b", "cuda")
    load_detector("blazepose", "cuda")
    assert asked == [("a,b", "cuda"), ("full", "cuda")]


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
        load_detector("yolo")
