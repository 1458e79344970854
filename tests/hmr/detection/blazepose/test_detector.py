"""People found in a part of the documentation's picture of scenes: two rendered people, 110 pixels tall.

Left and right of the second one are ambiguous, so positions are compared for the first.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hmr.detection.blazepose import finder as finder_module
from hmr.detection.blazepose.detector import (
    MIN_CONFIDENCE,
    BlazePoseDetector,
    FoundPerson,
    load_blazepose,
)
from hmr.detection.blazepose.finder import sliding_windows
from hmr.detection.blazepose.people import confidence
from hmr.detection.blazepose.regions import ImagePyramid
from hmr.types import POINT_NAMES, BatchDetector, Box, Camera, Detection, Sample

SCENES = Path(__file__).parents[4] / "docs/images/scenes.jpg"
BOXES = Box(51.0, 7.0, 99.0, 120.0), Box(191.0, 20.0, 236.0, 129.0)


@pytest.fixture(scope="module", autouse=True)
def _few_windows():  # the people fill half of the picture, and seconds count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finder_module, "WINDOW_FRACTIONS", (1.0, 0.6))
        yield


@pytest.fixture(scope="module")
def detector() -> BlazePoseDetector:
    return load_blazepose()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.asarray(Image.open(SCENES).convert("RGB"))[:140, :240].copy()


@pytest.fixture(scope="module")
def people(detector: BlazePoseDetector, picture: np.ndarray) -> list[FoundPerson]:
    """From the left to the right."""
    return sorted(detector.find_people(picture), key=lambda person: person.box.x0)


def sample(image: np.ndarray, box: Box) -> Sample:
    return Sample("a", image, box, Camera.estimate(image.shape[1], image.shape[0]))


def point(detection: Detection, name: str) -> np.ndarray:
    return detection.points_px[POINT_NAMES.index(name)].numpy()


def distance_px(a: Detection, b: Detection) -> float:
    """The median over the observed points."""
    rows = a.observed & b.observed
    return float((a.points_px - b.points_px)[rows].norm(dim=-1).median())


def test_it_detects_in_batches(detector: BlazePoseDetector):
    assert isinstance(detector, BatchDetector)
    assert not detector.is_flip_tested


def test_both_people_are_found(people: list[FoundPerson]):
    assert len(people) == 2
    for person, box in zip(people, BOXES, strict=True):
        assert person.box.iou(box) > 0.8
        assert person.confidence == person.detection.confidence >= MIN_CONFIDENCE


def test_a_person_stands_upright_and_the_rest_is_not_reported(people: list[FoundPerson]):
    for person in people:
        nose, hip, ankle = (point(person.detection, name)[1] for name in ("nose", "left_hip", "left_ankle"))
        assert nose < hip < ankle
        assert 10 < person.detection.sigma_px.isfinite().sum() < len(POINT_NAMES)
        for name in ("pelvis", "spine1", "left_collar", "head", "left_small_toe"):
            assert not person.detection.observed[POINT_NAMES.index(name)]
        assert person.world_m.shape == (33, 3)
        assert person.world_m.abs().max() < 1.2  # metres about the hips


def test_the_mask_is_on_the_person(people: list[FoundPerson]):
    for person in people:
        mask, square = person.detection.mask, person.detection.mask_box
        assert mask is not None
        assert square is not None
        hip = (point(person.detection, "left_hip") - [square.x0, square.y0]) / square.side * mask.shape[0]
        assert mask[int(hip[1]), int(hip[0])] > 0.5
        assert mask[0].max() < 0.5


def test_a_turned_picture_gives_turned_people(
    detector: BlazePoseDetector, picture: np.ndarray, people: list[FoundPerson]
):
    """A quarter turn anticlockwise takes (x, y) to (y, width - x); depths stay."""
    turned = sorted(detector.find_people(np.rot90(picture).copy()), key=lambda person: -person.box.y0)
    assert len(turned) == 2
    person, other = people[0].detection, turned[0].detection
    x, y = person.points_px.unbind(dim=-1)
    expected = torch.stack([y, picture.shape[1] - x], dim=-1)
    rows = person.observed
    assert (other.points_px - expected)[rows].norm(dim=-1).median() < 3
    assert (other.depth_m - person.depth_m)[rows].abs().median() < 0.05


def test_the_person_of_a_box_is_read(
    detector: BlazePoseDetector, picture: np.ndarray, people: list[FoundPerson]
):
    read = detector.detect_batch([sample(picture, box) for box in BOXES])
    assert distance_px(read[0], people[0].detection) < 4
    assert [detection.confidence > 0.9 for detection in read] == [True, True]


@pytest.mark.parametrize(
    "box", [Box(-40.0, -30.0, 20.0, 60.0), Box(900.0, 900.0, 950.0, 1000.0)], ids=["corner", "outside"]
)
def test_a_box_without_a_person_has_a_low_confidence(
    detector: BlazePoseDetector, picture: np.ndarray, box: Box
):
    detection = detector.detect(sample(picture, box))
    assert detection.confidence < MIN_CONFIDENCE
    assert detection.points_px.isfinite().all()


def test_a_person_is_tracked_into_the_next_frame(
    detector: BlazePoseDetector, picture: np.ndarray, people: list[FoundPerson]
):
    moved = np.roll(picture, 5, axis=1)
    person, _ = detector.track_people(people, moved)
    shift = (person.detection.points_px - people[0].detection.points_px).median(dim=0).values
    torch.testing.assert_close(shift, torch.tensor([5.0, 0.0]), rtol=0, atol=2.0)


def test_somebody_who_enters_is_found_while_the_others_are_followed(
    detector: BlazePoseDetector, picture: np.ndarray, people: list[FoundPerson]
):
    followed, entered = detector.track_people(people[:1], picture)
    assert followed.box.iou(BOXES[0]) > 0.8
    assert entered.box.iou(BOXES[1]) > 0.8


def test_a_person_who_has_jumped_is_found_near_by(
    detector: BlazePoseDetector, picture: np.ndarray, people: list[FoundPerson]
):
    """So far that hardly an arm is in the crop in which they were expected."""
    jumped = np.full_like(picture, 90)
    jumped[:, 130:200] = picture[:, 35:105]
    (there,) = detector.model.read(ImagePyramid(jumped), [people[0].landmarks.next_region])
    assert confidence(there) < MIN_CONFIDENCE
    (found,) = detector.track_people(people[:1], jumped)
    shift = (found.detection.points_px - people[0].detection.points_px).median(dim=0).values
    torch.testing.assert_close(shift, torch.tensor([95.0, 0.0]), rtol=0, atol=4.0)


def test_a_person_who_has_left_is_not_tracked_and_two_who_became_one_are_one(
    detector: BlazePoseDetector, picture: np.ndarray, people: list[FoundPerson]
):
    assert detector.track_people(people, np.full_like(picture, 90)) == []
    followed = detector.track_people([people[0], people[0]], picture)
    assert [person.box.iou(BOXES[0]) > 0.8 for person in followed] == [True, False]


def test_a_grey_picture(detector: BlazePoseDetector, picture: np.ndarray, people: list[FoundPerson]):
    grey = np.repeat(picture.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    assert distance_px(detector.detect(sample(grey, BOXES[0])), people[0].detection) < 6


def test_a_small_picture(detector: BlazePoseDetector, picture: np.ndarray):
    """People of 55 pixels."""
    boxes = detector.find(np.asarray(Image.fromarray(picture).resize((120, 70))))
    halves = [Box(box.x0 / 2, box.y0 / 2, box.x1 / 2, box.y1 / 2) for box in BOXES]
    assert [max(half.iou(box) for box in boxes) > 0.7 for half in halves] == [True, True]


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 300, 3), (90, 120, 3)])
def test_a_picture_without_people_has_none(
    detector: BlazePoseDetector, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
):
    """The finder's threshold is lowered, so that the landmark model has to refuse its candidates."""
    monkeypatch.setattr(finder_module, "MIN_SCORE", 0.2)
    rows = np.linspace(0, 255, shape[0], dtype=np.uint8)
    assert detector.find(np.broadcast_to(rows[:, None, None], shape).copy()) == []


def test_windows_cover_a_picture():
    windows = sliding_windows(900, 600)
    assert {round(window.side) for window in windows} == {900, 540}
    for x, y in ((1, 1), (899, 599), (450, 300), (200, 590)):
        for side in (900, 540):
            assert any(
                abs(window.cx - x) <= side / 2 and abs(window.cy - y) <= side / 2
                for window in windows
                if round(window.side) == side
            )


def test_windows_of_a_panorama_are_as_small_as_those_of_a_picture_of_its_height():
    windows = sliding_windows(3200, 600)
    assert {round(window.side) for window in windows} == {3200, 540}
    assert len(sliding_windows(100_000, 20)) < 300


def test_a_missing_model_says_how_to_fetch_it(tmp_path: Path):
    with pytest.raises(ValueError, match="extract_blazepose --variant heavy"):
        load_blazepose(str(tmp_path / "landmarks_heavy.safetensors"))
