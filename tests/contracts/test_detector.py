"""The contract of every detector: pixels of the whole image, points that are not reported, deterministic output."""

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import plugins
from common.storage.fingerprint import digest
from hmr.body.model import load_body
from hmr.detection.keypoints.file_detector import load_keypoint_file
from hmr.detection.loading import ENTRY_POINT_GROUP, load_detector
from hmr.detection.protocol import detector_digest
from hmr.policy.condition import condition_of, points_of
from hmr.policy.joints_3d import WithJoints3D
from hmr.policy.policy import DiffusionPolicy
from hmr.types import POINT_NAMES, Box, Camera, Detection, Detector, Sample
from tests.hmr.detection.detector_models import save_detector
from tests.hmr.detection.keypoints.keypoint_files import BOX as CORNERS
from tests.hmr.detection.keypoints.keypoint_files import PHOTO, WRITERS, save

BOX = Box(*CORNERS)
FILES = [f"file {kind}" for kind in WRITERS]


class CenterDetector:
    """A plug-in: the argument names the one point that it reports, at the centre of the box."""

    def __init__(self, argument: str) -> None:
        self.name, self.point = f"center:{argument}", argument

    def digest(self) -> str:
        return digest(self.name)

    def find(self, image: np.ndarray) -> list[Box]:
        return [BOX]

    def detect(self, sample: Sample) -> Detection:
        place = torch.tensor([sample.box.center])
        return Detection.from_points([self.point], place, torch.tensor([3.0]), torch.tensor([0.7]))


def installed(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    point = EntryPoint("mine", value, ENTRY_POINT_GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == ENTRY_POINT_GROUP else [])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_detector(tmp_path_factory.mktemp("models"))


@pytest.fixture(
    params=[
        "embedded",
        "blazepose",
        "transformers",
        "plug-in",
        *FILES,
        pytest.param("transformers with 3D joints", marks=pytest.mark.slow),
    ]
)
def make(
    request: pytest.FixtureRequest,
    tiny_policy: DiffusionPolicy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Detector]:
    """A new detector for a photograph of this size; the person of a keypoint file is shifted."""
    kind = request.param

    def made(shift: tuple[float, float] = (0.0, 0.0), size: tuple[int, int] = (200, 160)) -> Detector:
        if kind == "embedded":
            return tiny_policy.detector
        if kind in FILES:
            Image.new("RGB", size).save(tmp_path / PHOTO)
            content = WRITERS[kind.removeprefix("file ")](shift, size)
            return load_keypoint_file(save(content, tmp_path / "people.json"), tmp_path / PHOTO)
        if kind == "plug-in":
            installed(monkeypatch, f"{__name__}:CenterDetector")
            return load_detector("mine:left_knee")
        models = request.getfixturevalue("models") if kind.startswith("transformers") else kind
        loaded = load_detector(models)
        return WithJoints3D(loaded, tiny_policy, load_body()) if "3D" in kind else loaded

    return made


@pytest.fixture
def detector(make: Callable[..., Detector]) -> Detector:
    return make()


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (160, 200, 3), dtype=np.uint8)


def detect(detector: Detector, pixels: np.ndarray, box: Box) -> Detection:
    return detector.detect(Sample("a", pixels, box, Camera.estimate(pixels.shape[1], pixels.shape[0])))


def test_it_implements_the_protocol(detector: Detector):
    assert isinstance(detector, Detector)
    assert detector.name


def test_reading_a_person_does_not_change_its_digest(detector: Detector):
    before = detector_digest(detector)
    detect(detector, image(), BOX)
    assert detector_digest(detector) == before
    assert len(before or "") == 16


def test_the_name_and_the_digest_are_stable(make: Callable[..., Detector]):
    first, again = ((one.name, getattr(one, "digest", str)()) for one in (make(), make()))
    assert first == again


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
    assert found.mask is None or ((found.mask >= 0) & (found.mask <= 1)).all()
    assert 0 <= found.confidence <= 1


def test_points_that_are_not_reported_have_no_visibility(detector: Detector):
    found = detect(detector, image(), BOX)
    assert found.points_px.shape == (len(POINT_NAMES), 2)
    assert (found.visibility[~found.observed] == 0).all()
    assert found.depth_sigma_m[~found.observed].isinf().all()


def test_the_policy_can_read_a_detection(detector: Detector):
    points = points_of([detect(detector, image(), BOX)], [BOX.square()])
    assert condition_of(points, torch.zeros(1, 3)).isfinite().all()
    assert (points.weight > 0).any()


def test_the_mask_lies_over_a_square_that_holds_the_box(detector: Detector):
    square = detect(detector, image(), BOX).mask_box
    if square is None:
        pytest.skip("this detector has no masks")
    assert square.x1 - square.x0 == pytest.approx(square.y1 - square.y0)
    assert square.x0 <= BOX.x0
    assert square.x1 >= BOX.x1
    assert square.y0 <= BOX.y0
    assert square.y1 >= BOX.y1


def test_detection_is_deterministic(detector: Detector):
    first, again = (detect(detector, image(), BOX) for _ in range(2))
    torch.testing.assert_close(first.keypoints_px, again.keypoints_px, rtol=0, atol=0)
    np.testing.assert_array_equal(first.mask, again.mask)


def test_detection_is_translation_equivariant(make: Callable[..., Detector]):
    """The same pixels 37 to the right and 23 down: positions move by that, nothing else changes."""
    pixels, shift = image(), (37, 23)
    larger = np.full((240, 300, 3), 128, np.uint8)
    larger[shift[1] : shift[1] + 160, shift[0] : shift[0] + 200] = pixels
    there = Box(BOX.x0 + shift[0], BOX.y0 + shift[1], BOX.x1 + shift[0], BOX.y1 + shift[1])
    first, second = detect(make(), pixels, BOX), detect(make(shift, (300, 240)), larger, there)
    found = first.visibility > 0
    torch.testing.assert_close(
        second.points_px[found] - torch.tensor(shift), first.points_px[found], rtol=0, atol=0.05
    )
    torch.testing.assert_close(second.sigma_px, first.sigma_px, rtol=1e-3, atol=1e-3)
    assert (second.mask is None) == (first.mask is None)
    if first.mask is not None:
        np.testing.assert_allclose(second.mask, first.mask, atol=1e-3)
        assert second.mask_box.x0 - first.mask_box.x0 == pytest.approx(shift[0])


def test_the_policy_adds_3d_joints_to_a_detector_of_photographs(tiny_policy: DiffusionPolicy, models: str):
    body, alone = load_body(), load_detector(models)
    both = WithJoints3D(alone, tiny_policy, body)
    assert both.name == alone.name
    plain, found = (detect(one, image(), BOX) for one in (alone, both))
    torch.testing.assert_close(found.keypoints_px, plain.keypoints_px, rtol=0, atol=0)
    np.testing.assert_array_equal(found.mask, plain.mask)
    assert plain.joints_root_m is None
    sample = Sample("a", image(), BOX, Camera.estimate(200, 160))
    joints_m = body.joints(tiny_policy.regress(tiny_policy.encode([sample], [plain]))[0].params)[0]
    torch.testing.assert_close(found.joints_root_m, joints_m - joints_m[:1])
    assert both.with_joints([sample], [found])[0] is found  # a detector's own joints are kept


def test_a_plug_in_that_cannot_be_imported_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    installed(monkeypatch, "meshcritic_gone:Detector")
    with pytest.raises(
        ValueError, match=r"^the plug-in 'mine' of .* cannot be loaded \(ModuleNotFoundError: .*\)$"
    ):
        load_detector("mine")


def test_a_plug_in_that_makes_no_detector_is_refused(monkeypatch: pytest.MonkeyPatch):
    installed(monkeypatch, "builtins:str")
    with pytest.raises(ValueError, match=r"^the plug-in 'mine' makes a str, which is no detector"):
        load_detector("mine:x")


def test_an_unknown_detector_is_told_the_installed_ones(monkeypatch: pytest.MonkeyPatch):
    installed(monkeypatch, "builtins:str")
    with pytest.raises(ValueError, match=r"no detector is called 'yolo'; known are embedded, .*, mine$"):
        load_detector("yolo")
