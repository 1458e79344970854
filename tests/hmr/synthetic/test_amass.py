"""AMASS's layout, as the loader of nghorbani/amass reads it (`poses, trans, betas, gender`)."""

import math

import numpy as np
import pytest
import torch

from hmr.synthetic.amass import load_amass

UPRIGHT_ZUP = (math.pi / 2, 0.0, 0.0)  # SMPL's y-up body stood up in a z-up world


def clip(frames: int = 6, columns: int = 156, rate_key: str = "mocap_framerate") -> dict[str, np.ndarray]:
    poses = np.zeros((frames, columns))
    poses[:, :3] = UPRIGHT_ZUP
    poses[:, 3:66] = np.arange(frames)[:, None] / 100
    poses[:, 66:] = 9.0  # hands and face, which must not come through
    return {
        "poses": poses,
        "trans": np.tile([1.0, 2.0, 3.0], (frames, 1)),
        "betas": np.arange(16) / 10,
        "gender": np.array("neutral"),
        rate_key: np.array(60.0),
    }


def saved(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(("columns", "rate_key"), [(156, "mocap_framerate"), (165, "mocap_frame_rate")])
def test_smplh_and_smplx_files_give_the_same_body(tmp_path, columns, rate_key):
    motion = load_amass(saved(tmp_path / "clip.npz", clip(columns=columns, rate_key=rate_key)), fps=30)
    assert len(motion) == 3  # 60 thinned to 30 frames a second: frames 0, 2, 4
    torch.testing.assert_close(
        motion.body_pose[:, :21, 0], torch.tensor([[0.0], [0.02], [0.04]]).expand(3, 21)
    )
    assert not motion.body_pose[:, 21:].any()
    torch.testing.assert_close(motion.betas[2], torch.arange(10) / 10)


def test_world_is_turned_from_z_up_to_y_up(tmp_path):
    motion = load_amass(saved(tmp_path / "clip.npz", clip()))
    torch.testing.assert_close(motion.global_orient_world, torch.zeros(6, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(motion.trans_m[0], torch.tensor([1.0, 3.0, -2.0]))


def test_poses_face_forward(tmp_path):
    arrays = clip(frames=1)
    # turned 90 degrees about z-up, then stood up: R = Rz(90) Rx(90), a third of a turn about (1, 1, 1)
    arrays["poses"][0, :3] = 2 * math.pi / 3 / math.sqrt(3)
    motion = load_amass(saved(tmp_path / "clip.npz", arrays))
    torch.testing.assert_close(motion.global_orient_world[0], torch.tensor([0.0, math.pi / 2, 0.0]))
    torch.testing.assert_close(motion.poses().orient_up, torch.zeros(1, 3), atol=1e-6, rtol=0)


def test_folder_is_read_in_order_without_subject_files(tmp_path):
    saved(tmp_path / "b" / "two.npz", clip(frames=2))
    saved(tmp_path / "a" / "one.npz", clip(frames=3))
    saved(tmp_path / "a" / "shape.npz", {"betas": np.zeros(16)})
    saved(tmp_path / "b" / "male_stagei.npz", {"betas": np.zeros(16)})
    assert load_amass(tmp_path).body_pose[:, 0, 0].mul(100).round().tolist() == [0, 1, 2, 0, 1]


def test_object_arrays_are_never_opened(tmp_path):
    arrays = clip() | {"gender": np.array({"pickled": True}, dtype=object)}
    assert len(load_amass(saved(tmp_path / "clip.npz", arrays))) == 6


@pytest.mark.parametrize("key", ["poses", "trans", "betas"])
def test_missing_array_is_named_with_what_was_found(tmp_path, key):
    arrays = {name: value for name, value in clip().items() if name != key}
    with pytest.raises(ValueError, match=rf"lacks {key}; it holds .*gender"):
        load_amass(saved(tmp_path / "clip.npz", arrays))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("poses", np.zeros((6, 63)), r"poses has shape \(6, 63\), not \(6, 66 or more\)"),
        ("poses", np.zeros((0, 156)), r"poses has shape \(0, 156\)"),
        ("trans", np.zeros((5, 3)), r"trans has shape \(5, 3\), not \(6, 3\)"),
        ("betas", np.zeros(4), r"betas has shape \(4,\), not \(10 or more,\)"),
        ("trans", np.full((6, 3), np.nan), "not finite"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path, key, value, message):
    with pytest.raises(ValueError, match=message):
        load_amass(saved(tmp_path / "clip.npz", clip() | {key: value}))


def test_thinning_needs_a_frame_rate(tmp_path):
    arrays = {name: value for name, value in clip().items() if name != "mocap_framerate"}
    path = saved(tmp_path / "clip.npz", arrays)
    assert len(load_amass(path)) == 6
    with pytest.raises(ValueError, match="mocap_framerate and mocap_frame_rate"):
        load_amass(path, fps=30)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no AMASS npz"):
        load_amass(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no AMASS npz"):
        load_amass(tmp_path)
