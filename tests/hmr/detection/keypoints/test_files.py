"""Keypoint files: what each format says of a person, which people are found, and bad files in one sentence."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from hmr.detection.keypoints.file_detector import KeypointFileDetector, load_keypoint_file
from hmr.detection.keypoints.files import read_annotations, read_keypoints
from hmr.images import photographs
from hmr.types import POINT_NAMES, Box, Camera, Sample
from tests.hmr.detection.keypoints.keypoint_files import (
    BOX,
    PHOTO,
    SIZE,
    UNSEEN,
    WRITERS,
    annotations,
    openpose,
    own,
    place,
    results,
    save,
)

NO_SHIFT = (0.0, 0.0)


def photo(folder: Path, size: tuple[int, int] = SIZE, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", size).save(folder / PHOTO, exif=exif)
    return folder / PHOTO


def load(content: Any, folder: Path) -> KeypointFileDetector:
    return load_keypoint_file(save(content, folder / "people.json"), photo(folder))


def sample(box: Box, size: tuple[int, int] = SIZE) -> Sample:
    return Sample("a", np.zeros((size[1], size[0], 3), np.uint8), box, Camera.estimate(*size))


@pytest.mark.parametrize("kind", WRITERS)
def test_points_are_at_their_places(kind: str, tmp_path: Path):
    """COCO's files hold indices of pixels, half a pixel less than positions."""
    (person,) = load(WRITERS[kind](NO_SHIFT, SIZE), tmp_path).people
    observed = [name for name, seen in zip(POINT_NAMES, person.detection.observed, strict=True) if seen]
    assert len(observed) >= 16
    assert UNSEEN not in observed
    places = torch.tensor([place(name) for name in observed])
    torch.testing.assert_close(person.detection.points_px[person.detection.observed], places)


def test_a_persons_box_is_given_or_made_about_the_points(tmp_path: Path):
    assert load(own(NO_SHIFT, SIZE), tmp_path).people[0].box == Box(*BOX)
    points = {"left_hip": [20, 30], "right_hip": [10, 30], "head": [15, 130]}
    (person,) = load({"image_size": SIZE, "people": [{"points": points}]}, tmp_path).people
    assert person.box == Box(2.0, 22.0, 28.0, 138.0)  # 8 of 100 pixels beyond the points
    near = {name: [x, y - 30] for name, (x, y) in points.items()}
    (person,) = load({"image_size": SIZE, "people": [{"points": near}]}, tmp_path).people
    assert person.box.y0 == 0  # inside the photograph


def test_deviations_visibilities_and_confidences(tmp_path: Path):
    points = {"left_hip": [70, 80, 2.5], "neck": [75, 50, 4.0, 0.25], "nose": [75, 45]}
    person = {"points": points, "bbox": list(BOX), "confidence": 0.6}
    found = load({"image_size": SIZE, "people": [person]}, tmp_path).people[0].detection
    hip, neck, nose = (POINT_NAMES.index(name) for name in points)
    assert found.sigma_px[[hip, neck]].tolist() == [2.5, 4.0]
    assert float(found.sigma_px[nose]) == pytest.approx(0.026 * math.sqrt(0.53 * 50 * 80 / 2), rel=1e-4)
    assert found.visibility[[hip, neck, nose]].tolist() == [1.0, 0.25, 1.0]
    assert found.confidence == 0.6


def test_flags_of_annotations_are_visibilities(tmp_path: Path):
    found = load(annotations(NO_SHIFT, SIZE), tmp_path).people[0].detection
    knee, hip = POINT_NAMES.index("right_knee"), POINT_NAMES.index("right_hip")
    assert found.visibility[[knee, hip]].tolist() == pytest.approx([0.3, 1.0])
    assert found.sigma_px[knee].isfinite()


def test_results_and_openpose_have_a_confidence_for_the_person(tmp_path: Path):
    assert load(results(NO_SHIFT, SIZE), tmp_path).people[0].detection.confidence == 0.7
    assert load(openpose(NO_SHIFT, SIZE), tmp_path).people[0].detection.confidence == pytest.approx(0.8)


def test_of_several_images_the_results_are_those_with_the_photographs_name(tmp_path: Path):
    Image.new("RGB", SIZE).save(tmp_path / "000139.png")
    mine, other = results(NO_SHIFT, SIZE)[0], results(NO_SHIFT, SIZE)[0]
    file = save([{**mine, "image_id": 139}, {**other, "image_id": 8}], tmp_path / "r.json")
    assert len(read_keypoints(file, tmp_path / "000139.png", SIZE)[0]) == 1
    with pytest.raises(
        ValueError, match=r"results of 2 images, and no image_id is the photograph's name photo"
    ):
        read_keypoints(file, tmp_path / PHOTO, SIZE)


def test_crowds_and_people_without_points_are_left_out(tmp_path: Path):
    content = annotations(NO_SHIFT, SIZE)
    (person,) = content["annotations"]
    content["annotations"] += [
        {**person, "iscrowd": 1},
        {**person, "keypoints": [0] * 51},
        {**person, "image_id": 8},
    ]
    detector = load(content, tmp_path)
    assert len(detector.people) == 1
    assert detector.left_out() == "people.json: people left out: 1 without points or a usable box"
    assert load({"people": [{"pose_keypoints_2d": [0] * 75}]}, tmp_path).people == []


def test_what_a_detector_reports_of_nobody_does_not_cost_the_others(tmp_path: Path):
    people = openpose(NO_SHIFT, SIZE)["people"]
    few, outside = [0.0] * 75, [900, 9, 1, 950, 99, 1, *[930, 50, 1] * 23]
    few[:6] = [50, 50, 0.9, 53, 50, 0.9]  # a false detection of two points, three pixels apart
    found = load({"people": [*people, *({"pose_keypoints_2d": row} for row in (few, outside))]}, tmp_path)
    assert len(found.people) == len(people)
    assert found.left_out() == "people.json: people left out: 2 without points or a usable box"
    content = annotations(NO_SHIFT, SIZE)
    (person,) = content["annotations"]
    thing = {"id": 9, "image_id": person["image_id"], "bbox": [1, 1, 5, 5], "category_id": 3}
    content["annotations"] += [
        {**person, "bbox": [9, 9, 0, 5]},
        {**person, "bbox": [9, 9, 4, 6], "keypoints": [0] * 51},
        thing,
    ]
    found = load(content, tmp_path)
    assert len(found.people) == 1
    assert found.left_out() == "people.json: people left out: 2 without points or a usable box"


@pytest.mark.parametrize("content", [{"image_size": SIZE, "people": []}, {"people": []}, []])
def test_a_file_may_hold_nobody(content: Any, tmp_path: Path):
    detector = load(content, tmp_path)
    assert detector.left_out() == ""
    assert detector.find(np.zeros((160, 200, 3), np.uint8)) == []
    assert detector.detect(sample(Box(*BOX))).confidence == 0


def test_a_sample_gets_the_person_whose_box_matches(tmp_path: Path):
    content = own(NO_SHIFT, SIZE)
    content["people"] += own((80.0, 30.0), SIZE)["people"]
    detector = load(content, tmp_path)
    assert [box.x0 for box in detector.find(np.zeros((160, 200, 3), np.uint8))] == [60, 140]
    second = detector.detect(sample(Box(136.0, 66.0, 196.0, 150.0)))
    assert second.points_px[POINT_NAMES.index("nose")].tolist() == [
        place("nose")[0] + 80,
        place("nose")[1] + 30,
    ]
    nobody = detector.detect(sample(Box(0.0, 0.0, 20.0, 20.0)))
    assert not nobody.observed.any()
    assert nobody.confidence == 0


def test_people_of_little_confidence_are_not_found(tmp_path: Path):
    content = results(NO_SHIFT, SIZE)
    content[0]["score"] = 0.1
    detector = load(content, tmp_path)
    assert detector.find(np.zeros((160, 200, 3), np.uint8)) == []
    assert (
        detector.left_out() == "people.json: people left out: 1 below the confidence 0.2, unless in a --box"
    )


def test_a_reduced_photograph_has_reduced_keypoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    detector = load(own(NO_SHIFT, SIZE), tmp_path)
    monkeypatch.setattr(photographs, "MAX_PIXELS", 100 * 80)
    reduced = photographs.load_photo(tmp_path / PHOTO).image
    assert reduced.shape == (80, 100, 3)
    (person,) = detector.find_people(reduced)
    whole = detector.people[0].detection
    assert person.box == Box(30.0, 20.0, 55.0, 60.0)
    torch.testing.assert_close(person.detection.points_px, whole.points_px / 2)
    torch.testing.assert_close(person.detection.sigma_px, whole.sigma_px / 2)


def test_pixels_are_those_of_the_upright_photograph(tmp_path: Path):
    """Orientation 6: the file holds 160 x 200 pixels lying on their side."""
    file = save(own(NO_SHIFT, SIZE), tmp_path / "people.json")
    assert len(load_keypoint_file(file, photo(tmp_path, (160, 200), orientation=6)).people) == 1
    with pytest.raises(ValueError, match=r"200 x 160 pixels; .*photo.png has 160 x 200 upright"):
        load_keypoint_file(file, photo(tmp_path, (160, 200)))


def test_the_name_depends_on_the_content(tmp_path: Path):
    first, again = (load(own(NO_SHIFT, SIZE), tmp_path).name for _ in range(2))
    assert first == again
    assert first.startswith("keypoints:people.json@")
    assert load(own((1.0, 0.0), SIZE), tmp_path).name != first


def of_person(**changes: Any) -> dict[str, Any]:
    return {"image_size": SIZE, "people": [{**own(NO_SHIFT, SIZE)["people"][0], **changes}]}


def of_annotation(**changes: Any) -> dict[str, Any]:
    content = annotations(NO_SHIFT, SIZE)
    content["annotations"][0] |= changes
    return content


BAD = {
    "no format": ({"persons": []}, r"it holds persons; known formats are our own"),
    "a number": (3, r"it holds int"),
    "an unknown point": (of_person(points={"left_kne": [1, 2]}), r"person 0 of .* has the point 'left_kne';"),
    "an unknown key": (of_person(box=[1, 2, 3, 4]), r"person 0 of .* holds box; allowed are bbox, points, confidence"),
    "one number": (of_person(points={"nose": [1]}), r"nose of person 0 .* must be \[x, y\]"),
    "a word": (of_person(points={"nose": ["a", 2]}), r"the position of nose of person 0 .* not an array of numbers"),
    "not a number": (of_person(points={"nose": [math.nan, 2]}), r"the position of nose .* not finite"),
    "a deviation of zero": (of_person(points={"nose": [1, 2, 0]}), r"the deviation of nose .* must be positive"),
    "a visibility of 2": (of_person(points={"nose": [1, 2, 1, 2]}), r"the visibility of nose .* from 0 to 1, not 2"),
    "a confidence of 50": (of_person(confidence=50), r"confidence of person 0 .* from 0 to 1"),
    "swapped corners": (of_person(bbox=[50, 50, 10, 10]), r"bbox of person 0 .* with x1 > x0"),
    "a person outside": (of_person(bbox=[500, 10, 600, 90]), r"person 0 of .*: the box 500,10,600,90 lies outside"),
    "a giant": (of_person(bbox=[-1e6, 0, 1e6, 90]), r"the longer side of the box"),
    "no points": (of_person(points={}), r"person 0 of .* has 0 seen points"),
    "another size": ({"image_size": [160, 200], "people": []}, r"160 x 200 pixels; .*photo.png has 200 x 160 upright"),
    "16 keypoints": ({"people": [{"pose_keypoints_2d": [1] * 48}]}, r"has 48 numbers, not 75 \(BODY_25\) or 54"),
    "18 keypoints": (of_annotation(keypoints=[1] * 54), r"keypoints of annotation 0 .* 54 numbers, not 51 \(COCO\)"),
    "another photograph": (
        {"images": [{"id": 1, "file_name": "b.png"}], "annotations": []}, r"0 images with the name photo.png",
    ),
    "an entry that is none": ([3], r"result 0 of .* is of type int"),
    "no score": ([{"image_id": 1, "keypoints": [1] * 51}], r"result 0 of .* lacks score"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_is_one_sentence(fault: str, tmp_path: Path):
    content, says = BAD[fault]
    with pytest.raises(ValueError, match=says) as refused:
        load(content, tmp_path)
    assert "\n" not in str(refused.value)
    assert "people.json" in str(refused.value)


def test_a_file_that_is_no_json_or_missing_is_named(tmp_path: Path):
    (tmp_path / "people.json").write_text("{")
    with pytest.raises(ValueError, match=r"people.json is not a JSON file"):
        load_keypoint_file(tmp_path / "people.json", photo(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no keypoint file at .*gone.json"):
        load_keypoint_file(tmp_path / "gone.json", photo(tmp_path))


def test_the_example_in_the_documentation_is_read(tmp_path: Path):
    page = Path(__file__).parents[4] / "docs/reference/keypoint-file.md"
    example = json.loads(page.read_text().split("```json\n")[1].split("```")[0])
    Image.new("RGB", tuple(example["image_size"])).save(tmp_path / PHOTO)
    file = save(example, tmp_path / "people.json")
    assert len(load_keypoint_file(file, tmp_path / PHOTO).people) == len(example["people"]) > 0


def test_annotations_of_a_folder_are_those_of_its_photographs(tmp_path: Path):
    photos = [tmp_path / PHOTO, tmp_path / "unlisted.png"]
    for photo in photos:
        Image.new("RGB", SIZE).save(photo)
    path = save(WRITERS["annotations"]((0.0, 0.0), SIZE), tmp_path / "coco.json")
    found = read_annotations(path, photos)
    assert list(found) == photos[:1]
    (person,) = found[photos[0]]
    (alone,), _ = read_keypoints(path, photos[0], SIZE)
    assert person.box == alone.box
    assert torch.equal(person.detection.points_px, alone.detection.points_px)


def test_photographs_of_one_name_in_two_folders_are_told_apart(tmp_path: Path):
    photos = [tmp_path / folder / PHOTO for folder in ("a", "b")]
    for photo in photos:
        photo.parent.mkdir()
        Image.new("RGB", SIZE).save(photo)
    content = annotations((0.0, 0.0), SIZE)
    (image, *_), (person, *_) = content["images"], content["annotations"]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=rf"lists .*{PHOTO} once, and both .*a/{PHOTO} and .*b/{PHOTO} have its name"
    ):
        read_annotations(tmp_path / "coco.json", photos)
    content["images"] = [{**image, "file_name": f"{folder}/{PHOTO}", "id": folder} for folder in "ab"]
    content["annotations"] = [{**person, "image_id": "b"}]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    found = read_annotations(tmp_path / "coco.json", photos)
    assert {photo.parent.name: len(people) for photo, people in found.items()} == {"a": 0, "b": 1}


@pytest.mark.parametrize("kind", ["own", "openpose", "results"])
def test_only_annotations_name_the_photographs_of_a_folder(kind: str, tmp_path: Path):
    path = save(WRITERS[kind]((0.0, 0.0), SIZE), tmp_path / "people.json")
    with pytest.raises(ValueError, match=r"people\.json holds no COCO annotations"):
        read_annotations(path, [tmp_path / PHOTO])
