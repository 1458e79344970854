"""COCO's keypoint JSON (cocodataset.org, "Data format")."""

from pathlib import Path

import pytest
from PIL import Image

from hmr.datasets.annotated_set import prepare
from hmr.datasets.coco_keypoints import COCO_KEYPOINTS, read_coco_keypoints
from hmr.datasets.joints import COCO17, COCO_LIMBS, SMPL24, SMPL_FOR_COCO_LIMBS
from hmr.datasets.sources import source_of
from tests.hmr.datasets.layouts import coco_records, write_json


def written(folder: Path, content: object) -> Path:
    write_json(folder / "annotations" / "person_keypoints_val2017.json", content)
    return folder


def test_crowds_and_people_without_keypoints_are_skipped(tmp_path):
    (person,) = read_coco_keypoints(written(tmp_path, coco_records()), "val2017")
    assert person.name == "val2017/000000000139.jpg#7"
    assert (person.box.x0, person.box.y0, person.box.x1, person.box.y1) == (10, 5, 30, 35)


def test_flags_and_pixel_centres(tmp_path):
    (person,) = read_coco_keypoints(written(tmp_path, coco_records()), "val2017")
    (keypoints,) = person.keypoints
    assert keypoints.confidence[:4].tolist() == [0, 1, 1, 0]  # v = 0, 1, 2, 0
    assert keypoints.visible[:4].tolist() == [False, False, True, False]
    assert keypoints.positions_px[2].tolist() == [14.5, 20.5]


def test_limbs_of_both_conventions_have_the_same_names():
    for coco, smpl in zip(COCO_LIMBS, SMPL_FOR_COCO_LIMBS, strict=True):
        assert COCO17.joints[coco] == SMPL24.joints[smpl]


def test_missing_and_found_keys_are_named(tmp_path):
    content = coco_records()
    del content["annotations"][2]["bbox"]
    with pytest.raises(ValueError, match=r"annotation 2 of .* lacks bbox; it holds area, "):
        list(read_coco_keypoints(written(tmp_path, content), "val2017"))


def test_records_of_other_images_and_without_keypoints_are_dropped(tmp_path):
    """Files of a part of the images, and of boxes (instances_val2017.json)."""
    content = coco_records()
    (expected,) = read_coco_keypoints(written(tmp_path, content), "val2017")
    other = {**content["annotations"][0], "image_id": 99}
    boxed = {key: value for key, value in content["annotations"][0].items() if key != "keypoints"}
    content["annotations"] += [other, boxed]
    person, *dropped = read_coco_keypoints(written(tmp_path, content), "val2017")
    assert person.name == expected.name
    assert [record.reason for record in dropped] == [
        "image that the file does not list",
        "annotation without keypoints",
    ]


def test_a_set_of_one_s_own_has_splits_of_any_name(tmp_path):
    folder = written(tmp_path, coco_records())
    annotations = folder / "annotations"
    (annotations / "person_keypoints_val2017.json").rename(annotations / "person_keypoints_mine.json")
    (person,) = source_of("coco", "mine").read(folder, "mine")
    assert person.image.startswith("mine/")


def test_an_image_of_another_size_than_its_record_says_is_dropped(tmp_path):
    content = coco_records()
    content["images"][0] |= {"width": 10, "height": 10}
    folder = written(tmp_path, content)
    image = folder / "val2017" / content["images"][0]["file_name"]
    image.parent.mkdir()
    Image.new("RGB", (640, 480)).save(image)
    with pytest.raises(ValueError, match="image of another size"):
        prepare(COCO_KEYPOINTS, folder, "val2017", tmp_path / "set")


def test_a_record_without_iscrowd_is_a_person(tmp_path):
    """Converters of other data sets leave the member out."""
    content = coco_records()
    del content["annotations"][0]["iscrowd"]
    (person,) = read_coco_keypoints(written(tmp_path, content), "val2017")
    assert person.person == "7"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 3}, "images of .*val2017.json is of type int, not a list"),
        ({"images": [3]}, "image 0 of .*val2017.json is of type int, not an object that holds id, file_name"),
        ({"images": [{"id": [], "file_name": "a"}]}, "id of image 0 of .* is of type list, not int or str"),
        (
            {"images": [{"id": 139, "file_name": None}]},
            "file_name of image 0 of .* is of type NoneType, not str",
        ),
        ({"annotations": {"a": 1}}, "annotations of .* is of type dict, not a list"),
        (
            {"annotations": ["iscrowd"]},
            "annotation 0 of .* is of type str, not an object that holds id, image_id",
        ),
    ],
)
def test_json_of_another_layout_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        list(read_coco_keypoints(written(tmp_path, coco_records() | changes), "val2017"))


def test_other_numbers_of_keypoints_are_refused(tmp_path):
    content = coco_records()
    content["annotations"][0]["keypoints"] = [0.0] * 42
    with pytest.raises(ValueError, match=r"keypoints of annotation 0 of .* has shape \(42,\), not \(17, 3\)"):
        list(read_coco_keypoints(written(tmp_path, content), "val2017"))
