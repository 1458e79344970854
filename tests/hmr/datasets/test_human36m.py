"""HybrIK's JSON of Human3.6M (hybrik/datasets/h36m_smpl.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hmr.datasets.human36m import read_human36m
from tests.hmr.datasets.layouts import H36M_NAMES, human36m, human36m_records, write_json

FILE = "annotations/Sample_20_test_Human36M_smpl_protocol_2.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    human36m(tmp_path)
    return tmp_path


def names(folder: Path, split: str) -> list[str]:
    return [Path(annotation.image).stem for annotation in read_human36m(folder, split)]


def test_the_test_split_has_all_cameras_without_the_drifted_sequences(folder):
    assert names(folder, "test") == [*H36M_NAMES[:3], H36M_NAMES[4]]


def test_the_frontal_split_is_camera_60457274_every_fifth_frame(folder):
    assert names(folder, "test-frontal") == [*H36M_NAMES[:2]]


def test_joints_in_metres_project_with_the_camera(folder):
    annotation = next(read_human36m(folder, "test"))
    smpl, h36m = annotation.joints
    record = human36m_records()["annotations"][0]
    np.testing.assert_allclose(h36m.positions_m.numpy() * 1000, record["h36m_joints"], rtol=1e-5, atol=1e-3)
    assert (smpl.convention.name, h36m.convention.name) == ("smpl24", "h36m17")
    # HybrIK's cam2pixel: f * (x, y) / z + c; one focal length stands for 1145.05 and 1143.78, which differ by 0.1 %
    x, y, z = record["h36m_joints"][9]
    expected = torch.tensor([1145.05 * x / z + 32.5, 1143.78 * y / z + 24.5])
    torch.testing.assert_close(annotation.camera.project(h36m.positions_m[9]), expected, rtol=1e-3, atol=0.1)


def test_the_body_is_placed_at_the_smpl_pelvis(folder):
    """`root_coord` is Human3.6M's pelvis; SMPL's is the first of `smpl_joints`."""
    annotation = next(read_human36m(folder, "test"))
    rest = torch.tensor([0.0, -0.2, 0.03])
    torch.testing.assert_close(
        annotation.smpl.placement.transl_m(rest) + rest, annotation.joints[0].positions_m[0]
    )


def test_a_box_is_x_y_width_height(folder):
    box = next(read_human36m(folder, "test")).box
    assert (box.x0, box.y0, box.x1, box.y1) == (10, 5, 30, 35)


@pytest.mark.parametrize("key", ["h36m_joints", "smpl_joints", "thetas", "betas", "bbox"])
def test_missing_and_found_keys_are_named(folder, key):
    content = json.loads((folder / FILE).read_text())
    del content["annotations"][1][key]
    write_json(folder / FILE, content)
    with pytest.raises(
        ValueError, match=rf"annotation 1 of .*protocol_2.json lacks {key}; it holds .*angle_twist"
    ):
        list(read_human36m(folder, "test"))


def image_with(**changes: object) -> dict[str, object]:
    images = human36m_records()["images"]
    return {"images": [images[0] | changes, *images[1:]]}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "h36m_joints",
            [[0.0] * 3] * 14,
            r"h36m_joints of annotation 0 of .* has shape \(14, 3\), not \(17, 3\)",
        ),
        ("betas", [0.0] * 9, r"betas of annotation 0 of .* has shape \(9,\), not \(10,\)"),
        ("thetas", "none", r"thetas of annotation 0 of .* is of type str, not list"),
        ("smpl_joints", [[0.0], [0.0, 1.0]], r"smpl_joints of annotation 0 of .* is not an array of numbers"),
        ("image_id", 77, r"annotation 0 of .* belongs to another image"),
    ],
)
def test_wrong_values_are_refused(folder, key, value, message):
    content = json.loads((folder / FILE).read_text())
    content["annotations"][0][key] = value
    write_json(folder / FILE, content)
    with pytest.raises(ValueError, match=message):
        list(read_human36m(folder, "test"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 3}, r"images of .*protocol_2.json is of type int, not a list"),
        ({"annotations": [3] * 5}, r"annotation 0 of .* is of type int, not an object that holds image_id"),
        ({"images": [{}] * 5}, r"image 0 of .* lacks file_name, .*; it holds nothing"),
        (image_with(cam_param=[1, 2]), r"cam_param of image 0 of .* is of type list, not dict"),
        (
            image_with(cam_param={"f": 3, "c": []}),
            r"f of cam_param of annotation 0 of .* is of type int, not list",
        ),
        (image_with(width=0), r"the image of annotation 0 of .* is empty: it has 0 x 48 pixels"),
    ],
)
def test_json_of_another_layout_is_refused(folder, changes, message):
    write_json(folder / FILE, human36m_records() | changes)
    with pytest.raises(ValueError, match=message):
        list(read_human36m(folder, "test"))


def test_a_file_without_annotations_is_refused(folder):
    write_json(folder / FILE, {"images": []})
    with pytest.raises(ValueError, match="lacks annotations; it holds images"):
        list(read_human36m(folder, "test"))
    (folder / FILE).write_text("{")
    with pytest.raises(ValueError, match="is not a JSON file"):
        list(read_human36m(folder, "test"))


def test_image_names_of_another_form_cannot_be_split_by_camera(folder):
    content = json.loads((folder / FILE).read_text())
    content["images"][0]["file_name"] = "S9_Directions_1.60457274_000001.jpg"
    write_json(folder / FILE, content)
    with pytest.raises(ValueError, match="not s_SS_act_AA_subact_BB_ca_CC_FFFFFF"):
        list(read_human36m(folder, "test-frontal"))
