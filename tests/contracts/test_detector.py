"""The contract of every detector: pixels of the whole image, and deterministic output."""

import numpy as np
import pytest
import torch

from hmr.body.model import load_body
from hmr.detection.embedded import EmbeddedDetector, load_detector
from hmr.policy.policy import DiffusionPolicy
from hmr.types import Box, Camera, Detection, Detector, Sample
from tests.hmr.detection.detector_models import save_detector

BOX = Box(60.0, 40.0, 110.0, 120.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_detector(tmp_path_factory.mktemp("models"))


@pytest.fixture(
    params=[
        "embedded",
        "blazepose",
        "transformers",
        pytest.param("transformers with 3D joints", marks=pytest.mark.slow),
    ]
)
def detector(request: pytest.FixtureRequest, tiny_policy: DiffusionPolicy, models: str) -> Detector:
    body = load_body() if "3D" in request.param else None
    spec = models if request.param.startswith("transformers") else request.param
    return load_detector(spec, tiny_policy, body)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (160, 200, 3), dtype=np.uint8)


def detect(detector: Detector, pixels: np.ndarray, box: Box) -> Detection:
    return detector.detect(Sample("a", pixels, box, Camera.estimate(pixels.shape[1], pixels.shape[0])))


def test_it_implements_the_protocol(detector: Detector):
    assert isinstance(detector, Detector)
    assert detector.name


def test_people_are_boxes_of_the_image(detector: Detector):
    boxes = detector.find(image())
    assert all(isinstance(box, Box) for box in boxes)
    assert all(-20 <= box.x0 < box.x1 <= 220 and -20 <= box.y0 < box.y1 <= 180 for box in boxes)


def test_a_detection_is_finite_and_its_probabilities_are_in_range(detector: Detector):
    found = detect(detector, image(), BOX)
    assert found.keypoints_px.isfinite().all()
    assert (found.sigma_px > 0).all()
    assert ((found.visibility >= 0) & (found.visibility <= 1)).all()
    assert found.visibility.max() > 0
    assert ((found.mask >= 0) & (found.mask <= 1)).all()


def test_the_mask_lies_over_a_square_that_holds_the_box(detector: Detector):
    square = detect(detector, image(), BOX).mask_box
    assert square.x1 - square.x0 == pytest.approx(square.y1 - square.y0)
    assert square.x0 <= BOX.x0
    assert square.x1 >= BOX.x1
    assert square.y0 <= BOX.y0
    assert square.y1 >= BOX.y1


def test_detection_is_deterministic(detector: Detector):
    first, again = (detect(detector, image(), BOX) for _ in range(2))
    torch.testing.assert_close(first.keypoints_px, again.keypoints_px, rtol=0, atol=0)
    np.testing.assert_array_equal(first.mask, again.mask)


def test_detection_is_translation_equivariant(detector: Detector):
    """The same pixels 37 to the right and 23 down: positions move by that, nothing else changes."""
    pixels, shift = image(), (37, 23)
    larger = np.full((240, 300, 3), 128, np.uint8)
    larger[shift[1] : shift[1] + 160, shift[0] : shift[0] + 200] = pixels
    there = Box(BOX.x0 + shift[0], BOX.y0 + shift[1], BOX.x1 + shift[0], BOX.y1 + shift[1])
    first, second = detect(detector, pixels, BOX), detect(detector, larger, there)
    found = first.visibility > 0
    torch.testing.assert_close(
        second.points_px[found] - torch.tensor(shift), first.points_px[found], rtol=0, atol=0.05
    )
    torch.testing.assert_close(second.sigma_px, first.sigma_px, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(second.mask, first.mask, atol=1e-3)
    assert second.mask_box.x0 - first.mask_box.x0 == pytest.approx(shift[0])


def test_the_policy_adds_3d_joints_to_a_detector_of_photographs(tiny_policy: DiffusionPolicy, models: str):
    body = load_body()
    alone, both = (load_detector(models, tiny_policy, skin) for skin in (None, body))
    assert both.name == alone.name
    plain, found = (detect(one, image(), BOX) for one in (alone, both))
    torch.testing.assert_close(found.keypoints_px, plain.keypoints_px, rtol=0, atol=0)
    np.testing.assert_array_equal(found.mask, plain.mask)
    assert plain.joints_root_m is None
    expected = detect(EmbeddedDetector(tiny_policy, body), image(), BOX).joints_root_m
    assert found.joints_root_m is not None
    assert expected is not None
    torch.testing.assert_close(found.joints_root_m, expected)
