"""HumanData (mmhuman3d docs/human_data.md), as ADHMR's lib/dataset/humandata.py reads InstaVariety."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hmr.datasets.humandata import read_humandata
from tests.hmr.datasets.layouts import SIZE, humandata_members, image

NAME = "insta_variety_neural_annot_train"


def read(folder: Path, **changes: object) -> list:
    members = {k: v for k, v in (humandata_members() | changes).items() if v is not None}
    np.savez_compressed(folder / f"{NAME}.npz", **members)
    return list(read_humandata(folder, NAME))


def test_compressed_keypoints_are_unpacked(tmp_path):
    annotation = read(tmp_path)[1]
    joints = next(each for each in annotation.joints if each.convention.name == "smpl24")
    held = torch.from_numpy(humandata_members()["keypoints3d_smpl"][1, :, :3]).float()
    # the mask holds 0-21 and then 144, 145 (hips of the extra regressor), 188, 189 (SMPL's hands)
    torch.testing.assert_close(joints.positions_m[:22], held[:22])
    torch.testing.assert_close(joints.positions_m[22:], held[24:26])
    assert joints.known.all()


def test_uncompressed_keypoints_are_the_same(tmp_path):
    members = humandata_members()
    full = {}
    for key in ("keypoints2d_smpl", "keypoints3d_smpl"):
        full[key] = np.zeros((2, 190, members[key].shape[2]))
        full[key][:, members[f"{key}_mask"] > 0] = members[key]
    packed = read(tmp_path)[0].joints
    for one, other in zip(
        packed, read(tmp_path, **full, __keypoints_compressed__=False)[0].joints, strict=True
    ):
        assert torch.equal(one.positions_m, other.positions_m)
        assert torch.equal(one.known, other.known)


def test_joints_that_the_mask_lacks_are_unknown(tmp_path):
    """Human3.6M's pelvis (148) is not in the mask; its hips (145, 144) are."""
    h36m = next(each for each in read(tmp_path)[0].joints if each.convention.name == "h36m17")
    assert not h36m.known[0]
    assert h36m.known[[1, 4]].all()


def test_openpose_joints_are_used_if_the_mask_has_only_those(tmp_path):
    """mmhuman3d's InstaVibeConverter writes only OpenPose's names: knees at 166, 163, not 4, 5."""
    mask = np.zeros(190, dtype=np.uint8)
    mask[[163, 166]] = 1
    points = np.array([[[1.0, 2.0, 0.5], [3.0, 4.0, 1.0]]] * 2)
    changes = dict.fromkeys(("keypoints2d_smpl", "keypoints2d_smpl_mask", "keypoints3d_smpl"))
    (coco,) = read(tmp_path, **changes, keypoints2d=points, keypoints2d_mask=mask)[0].keypoints
    assert coco.convention.name == "coco17"
    assert coco.positions_px[[13, 14]].tolist() == [[3, 4], [1, 2]]  # left knee, right knee
    assert coco.confidence.nonzero()[:, 0].tolist() == [13, 14]


def test_betas_that_are_all_zero_are_read_as_none(tmp_path):
    assert read(tmp_path)[0].smpl.betas is None
    smpl = humandata_members()["smpl"] | {"betas": np.eye(2, 10)}
    assert read(tmp_path, smpl=smpl)[1].smpl.betas.tolist() == [0, 1, *[0] * 8]


def test_a_missing_size_is_that_of_the_image(tmp_path):
    for row in range(2):
        image(tmp_path / "train" / f"{row}.jpg", (40, 30))
    meta = {k: v for k, v in humandata_members()["meta"].items() if k not in ("width", "height")}
    cameras = [each.camera for each in (read(tmp_path)[0], read(tmp_path, meta=meta)[0])]
    assert [(camera.width, camera.height) for camera in cameras] == [SIZE, (40, 30)]


def test_misc_may_contain_one_camera_for_all(tmp_path):
    misc = {"focal_length": 500.0, "principal_point": [30.0, 20.0], "height": 48, "width": 64}
    for annotation in read(tmp_path, meta=None, misc=misc):
        camera = annotation.camera
        assert (camera.focal_px, camera.cx_px, camera.cy_px) == (500, 30, 20)
        assert (camera.width, camera.height) == (64, 48)


def test_missing_columns_are_read_as_none(tmp_path):
    annotation = read(tmp_path, smpl=None, meta=None)[0]
    assert annotation.smpl is None
    assert annotation.camera is None


def test_hands_of_smplx_bodies_are_in_the_rest_pose(tmp_path):
    smplx = humandata_members()["smpl"] | {"body_pose": np.ones((2, 21, 3)), "betas": np.ones((2, 10))}
    fit = read(tmp_path, smpl=None, smplx=smplx, meta={"gender": ["female", "male"]})[1].smpl
    assert (fit.model, fit.gender) == ("smplx", "male")
    assert fit.body_pose[:21].eq(1).all()
    assert not fit.body_pose[21:].any()


@pytest.mark.parametrize("key", ["image_path", "bbox_xywh", "keypoints2d_smpl_mask"])
def test_missing_and_found_keys_are_named(tmp_path, key):
    with pytest.raises(ValueError, match=rf"{NAME}.npz lacks {key}; it holds "):
        read(tmp_path, **{key: None})


def test_a_fit_without_its_orientation_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"smpl of .* lacks global_orient; it holds betas, body_pose"):
        read(tmp_path, smpl={"body_pose": np.zeros((2, 69)), "betas": np.zeros((2, 10))})


def fit(**changes: object) -> dict[str, object]:
    return {"smpl": humandata_members()["smpl"] | changes}


def meta(**changes: object) -> dict[str, object]:
    return {"meta": humandata_members()["meta"] | changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox_xywh": np.zeros((3, 5))}, r"bbox_xywh of .* has shape \(3, 5\), not \(2, any\)"),
        ({"smpl": "eft"}, "smpl of .* is a .*, not a dictionary"),
        ({"keypoints3d_smpl": np.zeros((2, 24, 4))}, r"keypoints3d_smpl of .* not \(2, 26, 4\)"),
        (
            {"keypoints2d_smpl_mask": np.ones(144)},
            r"keypoints2d_smpl_mask of .* has shape \(144,\), not \(190\)",
        ),
        (fit(transl=np.zeros((1, 3))), r"smpl.transl of .*.npz has shape \(1, 3\), not \(2, 3\)"),
        (fit(transl="far"), "smpl.transl of .* is not an array of numbers"),
        (fit(betas=np.ones((1, 10))), r"smpl.betas of .* has shape \(1, 10\), not \(2, any\)"),
        (fit(global_orient=None), r"smpl.global_orient of .* has shape \(\), not \(2, 3\)"),
        (meta(gender=["female"]), r"meta.gender of .* has shape \(1,\), not \(2\)"),
        (meta(gender=["female", "x"]), r"row 1 of .*.npz: the gender must be .* not 'x'"),
        (meta(height=[48]), r"meta.height of .* has shape \(1, 1\), not \(2, any\)"),
        (meta(height=[48, 0]), "the image of row 1 of .* is empty: it has 64 x 0"),
        (meta(focal_length="long"), "meta.focal_length of .* is not an array of numbers"),
        (meta(focal_length=np.ones((2, 3))), "meta.focal_length of .* has 3 numbers per person, not 2"),
    ],
)
def test_wrong_members_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **changes)


def test_the_files_of_the_folder_are_listed(tmp_path):
    read(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"there is no train.npz .* each a split: {NAME}"):
        read_humandata(tmp_path, "train")
