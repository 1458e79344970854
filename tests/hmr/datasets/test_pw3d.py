"""3DPW's pickles (their readme, SPIN's datasets/preprocess/pw3d.py)."""

from pathlib import Path

import numpy as np
import pytest
import roma
import torch

from hmr.body.model import Body, load_body
from hmr.datasets.annotation import Dropped
from hmr.datasets.labelling import body_params
from hmr.datasets.pw3d import read_pw3d
from hmr.types import BodyParams
from tests.hmr.datasets.layouts import numbers, pw3d, pw3d_sequence, rigid, write_pickle

SEQUENCE = "sequenceFiles/test/courtyard_walk_00.pkl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pw3d(tmp_path)
    return tmp_path


def rewrite(folder: Path, **changes: object) -> None:
    write_pickle(folder / SEQUENCE, pw3d_sequence() | changes)


def test_frames_are_those_with_an_aligned_camera_and_detected_joints(folder):
    """Frame 2 has no detections, frame 3 no camera; images are numbered by frame, not by `img_frame_ids`."""
    names = [annotation.name for annotation in read_pw3d(folder, "test")]
    assert names == [
        f"imageFiles/courtyard_walk_00/image_{frame:05d}.jpg#{person}"
        for frame in (0, 1)
        for person in (0, 1)
    ]


def test_joints_are_converted_from_the_world_to_the_camera_frame(folder):
    annotation = list(read_pw3d(folder, "test"))[2]  # frame 1, person 0
    world = pw3d_sequence()["jointPositions"][0][1].reshape(24, 3)
    matrix = rigid(1)
    expected = world @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(annotation.joints[0].positions_m.numpy(), expected, atol=1e-5)


def test_the_box_is_spins_square_about_the_detected_joints(folder):
    # joints at x 10 and 30, y 12 and 40 (the 18th has no confidence): centre (20, 26), side 1.2 * 28 = 33.6
    box = next(read_pw3d(folder, "test")).box
    np.testing.assert_allclose([*box.center, box.side], [20, 26, 33.6])


def test_genders_and_ten_betas(folder):
    people = list(read_pw3d(folder, "test"))[:2]
    assert [person.smpl.gender for person in people] == ["male", "female"]
    np.testing.assert_allclose(people[1].smpl.betas.numpy(), pw3d_sequence()["betas"][1], rtol=1e-6)


def test_the_body_posed_in_the_camera_frame_has_the_recorded_joints(folder):
    """`Placement` relies on this: posing and the change of frame commute."""
    world = BodyParams(
        torch.from_numpy(numbers(3, seed=5)).float(),
        torch.from_numpy(numbers(23, 3, seed=6)).float(),
        torch.from_numpy(numbers(10, seed=7)).float(),
        torch.from_numpy(numbers(3, seed=8)).float(),
    )
    body = load_body()
    smpl = Body.__new__(Body)
    smpl.__dict__.update(body.__dict__)
    smpl.name = "smpl"
    sequence = pw3d_sequence()
    sequence["poses"][0][0] = torch.cat([world.global_orient[None], world.body_pose]).flatten().numpy()
    sequence["betas"][0], sequence["trans"][0][0] = world.betas.numpy(), world.transl.numpy()
    sequence["jointPositions"][0][0] = body.joints(world).flatten().numpy()
    write_pickle(folder / SEQUENCE, sequence)

    annotation = next(read_pw3d(folder, "test"))
    params, _ = body_params(annotation, {"male": smpl})

    torch.testing.assert_close(smpl.joints(params), annotation.joints[0].positions_m, atol=1e-5, rtol=0)
    turn = roma.rotvec_to_rotmat(params.global_orient) @ roma.rotvec_to_rotmat(world.global_orient).mT
    torch.testing.assert_close(turn, torch.from_numpy(rigid(0)[:3, :3]).float(), atol=1e-5, rtol=0)


def test_strings_may_be_numpy_arrays(folder):
    """Listings of the files differ on whether `sequence` is a string or an array of one."""
    rewrite(folder, sequence=np.array(b"courtyard_walk_00"), genders=[np.bytes_(b"m"), np.str_("f")])
    people = list(read_pw3d(folder, "test"))[:2]
    assert people[0].image == "imageFiles/courtyard_walk_00/image_00000.jpg"
    assert [person.smpl.gender for person in people] == ["male", "female"]


@pytest.mark.parametrize("key", ["poses2d", "genders", "cam_poses", "campose_valid", "jointPositions"])
def test_missing_and_found_keys_are_named(folder, key):
    content = pw3d_sequence()
    del content[key]
    write_pickle(folder / SEQUENCE, content)
    with pytest.raises(ValueError, match=rf"courtyard_walk_00.pkl lacks {key}; it holds .*img_frame_ids"):
        list(read_pw3d(folder, "test"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("poses", [np.zeros((4, 69))] * 2, r"poses\[0\] of .* has shape \(4, 69\), not \(4, 72\)"),
        ("poses2d", [np.zeros((4, 18, 3))] * 2, r"poses2d\[0\] of .* not \(4, 3, 18\)"),
        ("trans", [np.zeros((3, 3))] * 2, r"trans\[0\] of .* has shape \(3, 3\), not \(4, 3\)"),
        ("trans", [np.zeros((4, 3))], r"trans\[1\] of .* is missing; there are poses of 2 people"),
        ("betas", [np.zeros(6)] * 2, r"betas\[0\] of .* holds 6 betas; 10 are needed"),
        ("betas", [np.zeros(10)], r"betas\[1\] of .* is missing; there are poses of 2 people"),
        ("betas", 3, r"betas\[0\] of .* holds 1 betas; 10 are needed"),
        ("genders", ["x", "f"], r"genders\[0\] of .*: the gender must be male, female or neutral, not 'x'"),
        ("genders", ["m"], r"genders\[1\] of .* is missing"),
        ("poses", 3, r"poses\[0\] of .* has shape \(\), not \(4, 72\)"),
        ("cam_poses", 3, r"cam_poses of .* has shape \(\), not \(1, 4, 4\)"),
        ("sequence", ["a", "b"], "sequence of .* holds 2 names, not one"),
        ("cam_intrinsics", np.diag([190.0, 150.0, 1.0]), "one focal length; that of .* has 190 and 150"),
    ],
)
def test_wrong_arrays_are_refused(folder, key, value, message):
    rewrite(folder, **{key: value})
    with pytest.raises(ValueError, match=message):
        list(read_pw3d(folder, "test"))


def test_the_size_is_that_of_the_first_image_that_exists(folder):
    images, records = folder / "imageFiles" / "courtyard_walk_00", list(read_pw3d(folder, "test"))
    (images / "image_00000.jpg").unlink()
    assert [each.name for each in read_pw3d(folder, "test")] == [each.name for each in records]
    for path in images.iterdir():
        path.unlink()
    assert list(read_pw3d(folder, "test")) == [Dropped("image missing", each.image) for each in records]
