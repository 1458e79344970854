"""The COCO-style JSON of 3DPW (ScoreHypo lib/dataset/pw3d.py)."""

from pathlib import Path

import pytest
import torch

from hmr.datasets.pw3d_coco import read_pw3d_coco
from tests.hmr.datasets.layouts import pw3d_coco_records, write_json


def written(folder: Path, name: str = "annotations/3DPW_test.json", **options: object) -> Path:
    write_json(folder / name, pw3d_coco_records(**options))
    return folder


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_metres_and_millimetres_give_the_same_body(tmp_path, unit):
    """ScoreHypo's test file is in metres, its train file in millimetres."""
    annotation = next(read_pw3d_coco(written(tmp_path, joints_unit=unit), "test"))
    expected = torch.tensor(pw3d_coco_records()["annotations"][0]["smpl_joint_cam"])
    torch.testing.assert_close(annotation.joints[0].positions_m, expected)


def test_a_body_of_neither_unit_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"extends 0\.00\d+ from its pelvis, which is neither metres nor mm"):
        next(read_pw3d_coco(written(tmp_path, joints_unit=0.001), "test"))


def test_the_regressed_joints_are_relative_to_their_pelvis(tmp_path):
    h36m = next(read_pw3d_coco(written(tmp_path), "test")).joints[1]
    assert (h36m.convention.name, h36m.frame) == ("h36m17", "root")
    assert not h36m.positions_m[0].any()


def test_every_tenth_record_after_small_boxes_are_dropped(tmp_path):
    """ScoreHypo applies `db[k][::10]` after removing small boxes: 0 is removed, so 1 and 11 are selected."""
    content = pw3d_coco_records(people=12)
    content["annotations"][0]["bbox"] = [-30.0, 6.0, 33.0, 30.0]  # 3 pixels inside the image
    write_json(tmp_path / "annotations" / "3DPW_test.json", content)
    assert [each.person for each in read_pw3d_coco(tmp_path, "test-10th")] == ["1", "11"]
    assert len(list(read_pw3d_coco(tmp_path, "test"))) == 11


def test_hybriks_folder_is_found(tmp_path):
    assert list(read_pw3d_coco(written(tmp_path, "json/3DPW_train.json"), "train"))


def test_a_missing_gender_is_read_as_none(tmp_path):
    content = pw3d_coco_records(people=2)
    del content["annotations"][1]["smpl_param"]["gender"]
    write_json(tmp_path / "annotations" / "3DPW_test.json", content)
    assert [each.smpl.gender for each in read_pw3d_coco(tmp_path, "test")] == ["male", None]


@pytest.mark.parametrize(
    ("place", "key", "message"),
    [
        ("images", "cam_param", r"image 0 of .* lacks cam_param; it holds file_name, height"),
        (
            "annotations",
            "smpl_joint_cam",
            r"annotation 0 of .* lacks smpl_joint_cam; it holds bbox, h36m_joints",
        ),
        ("annotations", "smpl_param", r"annotation 0 of .* lacks smpl_param; it holds"),
    ],
)
def test_missing_and_found_keys_are_named(tmp_path, place, key, message):
    content = pw3d_coco_records()
    del content[place][0][key]
    write_json(tmp_path / "annotations" / "3DPW_test.json", content)
    with pytest.raises(ValueError, match=message):
        list(read_pw3d_coco(tmp_path, "test"))


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        ("images", "id", [1], r"id of image 0 of .*3DPW_test.json is of type list, not int or str"),
        ("images", "width", "wide", r"width of image 0 of .* is of type str, not int or float"),
        (
            "images",
            "cam_param",
            {"focal": 3, "princpt": []},
            r"focal of cam_param of .* is of type int, not list",
        ),
        ("annotations", "smpl_param", 3, r"smpl_param of annotation 0 of .* is of type int, not dict"),
        ("annotations", "smpl_joint_img", [[1, 2], [3]], r"smpl_joint_img of .* is not an array of numbers"),
        ("annotations", "image_id", None, r"image_id of annotation 0 of .* is of type NoneType"),
    ],
)
def test_values_of_another_type_are_refused(tmp_path, place, key, value, message):
    content = pw3d_coco_records()
    content[place][0][key] = value
    write_json(tmp_path / "annotations" / "3DPW_test.json", content)
    with pytest.raises(ValueError, match=message):
        list(read_pw3d_coco(tmp_path, "test"))


def test_inner_keys_are_named_too(tmp_path):
    content = pw3d_coco_records()
    content["annotations"][0]["smpl_param"] = {"pose": [0.0] * 72}
    write_json(tmp_path / "annotations" / "3DPW_test.json", content)
    with pytest.raises(ValueError, match=r"smpl_param of annotation 0 of .* lacks shape; it holds pose"):
        list(read_pw3d_coco(tmp_path, "test"))
    content["annotations"][0]["image_id"] = 5
    write_json(tmp_path / "annotations" / "3DPW_test.json", content)
    with pytest.raises(ValueError, match="belongs to image 5, which the file does not list"):
        list(read_pw3d_coco(tmp_path, "test"))
