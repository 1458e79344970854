"""npz files of HMR2 (4D-Humans hmr2/datasets/image_dataset.py), SPIN (datasets/base_dataset.py) and CameraHMR
(core/datasets/dataset_train.py)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hmr.datasets.hmr2 import read_bedlam, read_hmr2, read_spin
from tests.hmr.datasets.layouts import (
    SPIN_H36M_JOINTS,
    bedlam,
    bedlam_columns,
    hmr2_columns,
    spin_h36m_columns,
    spin_pw3d_columns,
)


def saved(folder: Path, columns: dict[str, object]) -> Path:
    np.savez(folder / "set.npz", **{key: value for key, value in columns.items() if value is not None})
    return folder


def test_boxes_are_in_pixels_in_hmr2_and_divided_by_200_in_spin(tmp_path):
    # HMR2: side 40 about (32, 24); SPIN: 200 * 0.2 = 40
    for read, columns in ((read_hmr2, hmr2_columns()), (read_spin, spin_pw3d_columns())):
        box = next(iter(read(saved(tmp_path, columns), "set"))).box
        np.testing.assert_allclose([box.x0, box.y0, box.x1, box.y1], [12, 4, 52, 44])


def test_hmr2_boxes_of_width_and_height(tmp_path):
    columns = hmr2_columns() | {"scale": np.tile([20.0, 40.0], (3, 1))}
    box = next(read_hmr2(saved(tmp_path, columns), "set")).box
    assert (box.x0, box.y0, box.x1, box.y1) == (22, 4, 42, 44)


def test_hmr2_parameters_are_read_only_if_flagged(tmp_path):
    fits = [each.smpl for each in read_hmr2(saved(tmp_path, hmr2_columns()), "set")]
    assert fits[0].betas is not None
    assert fits[1].betas is None
    assert fits[2] is None
    assert fits[0].placement is None  # the file says nothing of where the body stands
    np.testing.assert_allclose(
        torch.cat([fits[1].global_orient[None], fits[1].body_pose]).flatten().numpy(),
        hmr2_columns()["body_pose"][1],
        rtol=1e-6,
    )


def test_hmr2_drops_body_joints_that_the_extra_joints_define(tmp_path):
    joints = next(read_hmr2(saved(tmp_path, hmr2_columns()), "set")).joints[0]
    assert joints.frame == "root"
    assert joints.known.logical_not().nonzero()[:, 0].tolist() == list(range(1, 15))
    np.testing.assert_allclose(
        joints.positions_m[25:].numpy(), hmr2_columns()["extra_keypoints_3d"][0, :, :3], rtol=1e-6
    )


def test_hmr2_files_with_keypoints_only(tmp_path):
    """coco_val.npz has no 3D; names may be bytes."""
    columns = {key: hmr2_columns()[key] for key in ("center", "scale", "body_keypoints_2d")}
    columns["imgname"] = np.array([b"val2017/1.jpg", b"val2017/2.jpg", b"val2017/3.jpg"])
    annotation = next(read_hmr2(saved(tmp_path, columns), "set"))
    assert annotation.image == "val2017/1.jpg"
    assert annotation.joints == ()
    assert annotation.keypoints[0].confidence.tolist() == [1.0] * 25 + [0.0] * 19


def test_spin_3dpw_has_gendered_bodies_and_no_joints(tmp_path):
    first, second = read_spin(saved(tmp_path, spin_pw3d_columns()), "set")
    assert [first.smpl.gender, second.smpl.gender] == ["male", "female"]
    assert (first.joints, first.keypoints, first.smpl.placement) == ((), (), None)
    no_fit = spin_pw3d_columns() | {"has_smpl": np.array([0.0, 1.0])}
    assert next(read_spin(saved(tmp_path, no_fit), "set")).smpl is None
    no_gender = spin_pw3d_columns() | {"gender": None}
    assert next(read_spin(saved(tmp_path, no_gender), "set")).smpl.gender is None


def test_spin_human36m_has_joints_and_no_body(tmp_path):
    first, _ = read_spin(saved(tmp_path, spin_h36m_columns()), "set")
    assert first.smpl is None
    assert first.joints[0].known.nonzero()[:, 0].tolist() == sorted(SPIN_H36M_JOINTS)
    assert not first.joints[0].positions_m[14].any()  # the pelvis


def test_bedlam_adds_both_translations(tmp_path):
    split = bedlam(tmp_path)
    annotation = next(read_bedlam(tmp_path, split))
    columns = bedlam_columns()
    # `translation = cam_ext[:, 3] + trans_cam` of dataset_train.py
    expected = torch.from_numpy(columns["cam_ext"][0, :3, 3] + columns["trans_cam"][0]).float()
    torch.testing.assert_close(annotation.smpl.placement.transl_m(torch.zeros(3)), expected)
    assert annotation.smpl.model == "smplx"
    assert not annotation.smpl.body_pose[21:].any()


def test_camerahmr_smpl_poses(tmp_path):
    split = bedlam(tmp_path)
    columns = bedlam_columns() | {"pose_cam": np.ones((2, 24, 3)), "trans_cam": None, "gender": None}
    saved(tmp_path, columns).joinpath("set.npz").rename(tmp_path / f"{split}.npz")
    fit = next(read_bedlam(tmp_path, split)).smpl
    assert (fit.model, fit.gender, fit.placement) == ("smpl", None, None)
    assert fit.body_pose.eq(1).all()


READERS = {
    "hmr2": (read_hmr2, hmr2_columns),
    "spin": (read_spin, spin_pw3d_columns),
    "bedlam": (read_bedlam, bedlam_columns),
}


@pytest.mark.parametrize("name", sorted(READERS))
@pytest.mark.parametrize("key", ["imgname", "center", "scale"])
def test_missing_and_found_keys_are_named(tmp_path, name, key):
    read, columns = READERS[name]
    with pytest.raises(
        ValueError, match=rf"set.npz lacks {key}; it holds .*gender|set.npz lacks {key}; it holds betas"
    ):
        list(read(saved(tmp_path, columns() | {key: None}), "set"))


def test_parameters_without_their_flags_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"which has betas, lacks has_betas; it holds"):
        list(read_hmr2(saved(tmp_path, hmr2_columns() | {"has_betas": None}), "set"))


@pytest.mark.parametrize(
    ("read", "columns", "message"),
    [
        (read_hmr2, hmr2_columns() | {"body_pose": np.zeros((3, 69))}, r"body_pose of .* not \(3, 72\)"),
        (read_hmr2, hmr2_columns() | {"scale": np.zeros((3, 3))}, r"scale of .* has shape \(3, 3\)"),
        (
            read_hmr2,
            hmr2_columns() | {"scale": np.array(["a", "b", "c"])},
            "scale of .* not an array of numbers",
        ),
        (read_spin, spin_h36m_columns() | {"S": np.zeros((2, 17, 4))}, r"S of .* not \(2, 24, 4\)"),
        (read_spin, spin_pw3d_columns() | {"center": np.zeros((1, 2))}, r"center of .* not \(2, 2\)"),
        (
            read_spin,
            spin_pw3d_columns() | {"pose": np.full((2, 72), "x")},
            "pose of .* holds <U1, not numbers",
        ),
        (
            read_spin,
            spin_pw3d_columns() | {"gender": ["x", "f"]},
            r"gender of row 0 of .*set.npz: .* not 'x'",
        ),
        (read_bedlam, bedlam_columns() | {"pose_cam": 1.0}, r"pose_cam of .* has shape \(\), not \(2, any\)"),
        (
            read_bedlam,
            bedlam_columns() | {"pose_cam": np.zeros((3, 24, 3))},
            r"pose_cam of .* shape \(3, 72\)",
        ),
    ],
)
def test_wrong_columns_are_refused(tmp_path, read, columns, message):
    with pytest.raises(ValueError, match=message):
        list(read(saved(tmp_path, columns), "set"))
