"""COCO's keypoint JSON (cocodataset.org, "Data format")."""

from pathlib import Path

import pytest

from hmr.datasets.coco_keypoints import read_coco_keypoints
from hmr.datasets.joints import COCO17, COCO_LIMBS, SMPL24, SMPL_FOR_COCO_LIMBS
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


@pytest.mark.parametrize("key", ["keypoints", "bbox"])
def test_missing_and_found_keys_are_named(tmp_path, key):
    """A file of boxes (instances_val2017.json) has no keypoints."""
    content = coco_records()
    del content["annotations"][2][key]
    with pytest.raises(ValueError, match=rf"annotation 2 of .* lacks {key}; it holds area, "):
        list(read_coco_keypoints(written(tmp_path, content), "val2017"))


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
