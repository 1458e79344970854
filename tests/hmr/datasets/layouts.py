"""Tiny data sets in the layouts of their public writers and loaders (cited in each function)."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (64, 48)
FAR = np.array([0.1, 0.2, 5.0])


def image(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """Noise that depends on the name of the file and of its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32("/".join(path.parts[-2:]).encode())
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def numbers(*shape: int, seed: int = 0, scale: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, shape)


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_pickle(path: Path, content: object) -> Path:
    """A pickle as written by Python 2 and numpy 1: protocol 2 and their module names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pickled = pickle.dumps(content, protocol=2)
    path.write_bytes(pickled.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return path


H36M_NAMES = (
    "s_09_act_02_subact_01_ca_04_000001",
    "s_09_act_02_subact_01_ca_04_000021",
    "s_09_act_02_subact_01_ca_01_000021",
    "s_09_act_05_subact_02_ca_04_000001",  # of a sequence with drift
    "s_11_act_02_subact_01_ca_04_000023",  # not a fifth frame
)


def human36m_records() -> dict[str, list[dict[str, Any]]]:
    """HybrIK hybrik/datasets/h36m_smpl.py, `_load_jsons`."""
    images, annotations = [], []
    for index, name in enumerate(H36M_NAMES):
        joints_mm = numbers(29, 3, seed=index) * 1000 + 1000 * FAR
        images.append(
            {
                "id": index,
                "file_name": f"{name.rsplit('_', 1)[0]}/{name}.jpg",
                "width": SIZE[0],
                "height": SIZE[1],
                "cam_param": {"f": [1145.05, 1143.78], "c": [32.5, 24.5]},
            }
        )
        annotations.append(
            {
                "id": index,
                "image_id": index,
                "bbox": [10.0, 5.0, 20.0, 30.0],
                "h36m_joints": joints_mm[:17].tolist(),
                "smpl_joints": joints_mm.tolist(),
                "betas": numbers(10).tolist(),
                "thetas": numbers(24, 3, seed=index).tolist(),
                "root_coord": joints_mm[0].tolist(),
                "angle_twist": {"angle": [0.0] * 23, "cos": [1.0] * 23, "sin": [0.0] * 23},
            }
        )
    return {"images": images, "annotations": annotations}


def human36m(folder: Path) -> str:
    content = human36m_records()
    write_json(folder / "annotations" / "Sample_20_test_Human36M_smpl_protocol_2.json", content)
    for record in content["images"]:
        image(folder / "images" / record["file_name"])
    return "test"


def rigid(seed: int = 0) -> np.ndarray:
    """World to camera: a rotation and a translation in front of the camera."""
    turn, _ = np.linalg.qr(numbers(3, 3, seed=seed))
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.sign(np.linalg.det(turn))
    matrix[:3, 3] = [0.1, 0.2, 6.0]
    return matrix


def pw3d_sequence(frames: int = 4, people: int = 2) -> dict[str, Any]:
    """The readme of 3DPW, with the names of the files (SPIN datasets/preprocess/pw3d.py)."""
    keypoints = np.tile(np.array([[10.0], [12.0], [0.9]]), (frames, 1, 18))
    keypoints[:, 0, :9], keypoints[:, 1, 4] = 30.0, 40.0
    keypoints[:, :, 17] = 0.0
    keypoints[2] = 0.0  # fewer than six joints were detected
    valid = np.ones(frames, dtype=int)
    valid[3] = 0
    return {
        "sequence": "courtyard_walk_00",
        "betas": [numbers(300, seed=p)[:10] for p in range(people)],
        "poses": [numbers(frames, 72, seed=p) for p in range(people)],
        "trans": [numbers(frames, 3, seed=p) for p in range(people)],
        "poses_60Hz": [numbers(2 * frames, 72) for _ in range(people)],
        "genders": ["m", "f"][:people],
        "poses2d": [keypoints.copy() for _ in range(people)],
        "jointPositions": [numbers(frames, 72, seed=p) for p in range(people)],
        "img_frame_ids": np.arange(frames) * 2,
        "cam_poses": np.stack([rigid(f) for f in range(frames)]),
        "campose_valid": [valid.copy() for _ in range(people)],
        "cam_intrinsics": np.array([[190.0, 0.0, 32.0], [0.0, 190.0, 24.0], [0.0, 0.0, 1.0]]),
    }


def pw3d(folder: Path) -> str:
    write_pickle(folder / "sequenceFiles" / "test" / "courtyard_walk_00.pkl", pw3d_sequence())
    for frame in range(4):
        image(folder / "imageFiles" / "courtyard_walk_00" / f"image_{frame:05d}.jpg")
    return "test"


def pw3d_coco_records(people: int = 11, joints_unit: float = 1.0) -> dict[str, list[dict[str, Any]]]:
    """ScoreHypo lib/dataset/pw3d.py; `joints_unit` is 1000 in its train file."""
    images, annotations = [], []
    for index in range(people):
        joints_m = numbers(24, 3, seed=index) + FAR
        images.append(
            {
                "id": 100 + index,
                "sequence": "downtown_walk_00",
                "file_name": f"image_{index:05d}.jpg",
                "width": SIZE[0],
                "height": SIZE[1],
                "cam_param": {"focal": [190.0, 190.0], "princpt": [32.0, 24.0]},
            }
        )
        annotations.append(
            {
                "id": index,
                "image_id": 100 + index,
                "bbox": [8.0, 6.0, 20.0, 30.0],
                "smpl_param": {
                    "shape": numbers(10).tolist(),
                    "pose": numbers(72, seed=index).tolist(),
                    "trans": [0.0, 0.0, 5.0],
                    "gender": "male",
                },
                "h36m_joints": joints_m[:17].tolist(),
                "smpl_joint_cam": (joints_m * joints_unit).tolist(),
                "smpl_joint_img": numbers(24, 3, scale=20).tolist(),
            }
        )
    return {"images": images, "annotations": annotations}


def pw3d_coco(folder: Path) -> str:
    content = pw3d_coco_records()
    write_json(folder / "annotations" / "3DPW_test.json", content)
    for record in content["images"]:
        image(folder / "imageFiles" / record["sequence"] / record["file_name"])
    return "test"


def humandata_members(people: int = 2) -> dict[str, Any]:
    """mmhuman3d docs/human_data.md and `HumanData.dump`; keypoints compressed by
    `compress_keypoints_by_mask`, and NeuralAnnot's InstaVariety as ADHMR lib/dataset/humandata.py reads it."""
    mask = np.zeros(190, dtype=np.uint8)
    mask[[*range(22), 144, 145, 188, 189]] = 1
    held = int(mask.sum())
    return {
        "__key_strict__": False,
        "__data_len__": people,
        "__keypoints_compressed__": True,
        "image_path": [f"train/{row}.jpg" for row in range(people)],
        "bbox_xywh": np.tile([4.0, 6.0, 30.0, 40.0, 1.0], (people, 1)),
        "smpl": {
            "body_pose": numbers(people, 23, 3),
            "global_orient": numbers(people, 3),
            "betas": np.zeros((people, 10)),
            "transl": numbers(people, 3) + FAR,
        },
        "keypoints2d_smpl": np.concatenate(
            [numbers(people, held, 2, scale=20), np.ones((people, held, 1))], 2
        ),
        "keypoints2d_smpl_mask": mask,
        "keypoints3d_smpl": np.concatenate([numbers(people, held, 3), np.ones((people, held, 1))], 2),
        "keypoints3d_smpl_mask": mask,
        "meta": {
            "focal_length": np.full((people, 2), 500.0),
            "principal_point": np.tile([SIZE[0] / 2, SIZE[1] / 2], (people, 1)),
            "height": [SIZE[1]] * people,
            "width": [SIZE[0]] * people,
        },
    }


def humandata(folder: Path) -> str:
    np.savez_compressed(folder / "insta_variety_neural_annot_train.npz", **humandata_members())
    for name in humandata_members()["image_path"]:
        image(folder / name)
    return "insta_variety_neural_annot_train"


def hmr2_columns(people: int = 3) -> dict[str, Any]:
    """4D-Humans hmr2/datasets/image_dataset.py; written by ProHMR dataset_preprocessing/preprocess_h36m.py."""
    return {
        "imgname": [f"images/S9_Directions_1.60457274_{5 * row + 1:06d}.jpg" for row in range(people)],
        "center": np.tile([32.0, 24.0], (people, 1)),
        "scale": np.full(people, 40.0),
        "body_pose": numbers(people, 72),
        "has_body_pose": np.array([1.0, 1.0, 0.0])[:people],
        "betas": numbers(people, 10),
        "has_betas": np.array([1.0, 0.0, 0.0])[:people],
        "body_keypoints_2d": np.concatenate([numbers(people, 25, 2), np.ones((people, 25, 1))], 2),
        "extra_keypoints_2d": np.concatenate([numbers(people, 19, 2), np.ones((people, 19, 1))], 2),
        "body_keypoints_3d": np.concatenate([numbers(people, 25, 3), np.ones((people, 25, 1))], 2),
        "extra_keypoints_3d": np.concatenate([numbers(people, 19, 3), np.ones((people, 19, 1))], 2),
    }


def hmr2(folder: Path) -> str:
    np.savez(folder / "h36m_val_p2.npz", **hmr2_columns())
    for name in hmr2_columns()["imgname"]:
        image(folder / name)
    return "h36m_val_p2"


def spin_pw3d_columns(people: int = 2) -> dict[str, Any]:
    """SPIN datasets/preprocess/pw3d.py: gendered bodies and no joints."""
    return {
        "imgname": [f"imageFiles/a/image_{row:05d}.jpg" for row in range(people)],
        "center": np.tile([32.0, 24.0], (people, 1)),
        "scale": np.full(people, 0.2),
        "pose": numbers(people, 72),
        "shape": numbers(people, 10),
        "gender": ["m", "f"][:people],
    }


def spin_pw3d(folder: Path) -> str:
    np.savez(folder / "3dpw_test.npz", **spin_pw3d_columns())
    for name in spin_pw3d_columns()["imgname"]:
        image(folder / name)
    return "3dpw_test"


SPIN_H36M_JOINTS = (14, 3, 4, 5, 2, 1, 0, 16, 12, 17, 18, 9, 10, 11, 8, 7, 6)


def spin_h36m_columns(people: int = 2) -> dict[str, Any]:
    """SPIN datasets/preprocess/h36m.py: 17 of 24 joints relative to the pelvis (its `global_idx`), and no bodies."""
    places, joints = numbers(people, 17, 3), np.zeros((people, 24, 4))
    joints[:, SPIN_H36M_JOINTS, :3] = places - places[:, :1]
    joints[:, SPIN_H36M_JOINTS, 3] = 1
    return {
        "imgname": [f"images/S9_Directions_1.60457274_{5 * row + 1:06d}.jpg" for row in range(people)],
        "center": np.tile([32.0, 24.0], (people, 1)),
        "scale": np.full(people, 0.2),
        "S": joints,
    }


def spin_h36m(folder: Path) -> str:
    np.savez(folder / "h36m_valid_protocol2.npz", **spin_h36m_columns())
    for name in spin_h36m_columns()["imgname"]:
        image(folder / name)
    return "h36m_valid_protocol2"


def bedlam_columns(people: int = 2) -> dict[str, Any]:
    """CameraHMR core/datasets/dataset_train.py."""
    extrinsics = np.tile(np.eye(4), (people, 1, 1))
    extrinsics[:, :3, 3] = [0.5, 0.0, 4.0]
    return {
        "imgname": np.array([f"seq_000000/{row}.png" for row in range(people)], dtype=object),
        "center": np.tile([32.0, 24.0], (people, 1)),
        "scale": np.full(people, 0.2),
        "pose_cam": numbers(people, 165),
        "shape": numbers(people, 11),
        "cam_int": np.tile([[60.0, 0.0, 32.0], [0.0, 60.0, 24.0], [0.0, 0.0, 1.0]], (people, 1, 1)),
        "trans_cam": numbers(people, 3),
        "cam_ext": extrinsics,
        "gtkps": numbers(people, 44, 3),
        "gender": ["neutral"] * people,
    }


def bedlam(folder: Path) -> str:
    np.savez(folder / "all_npz_12_training.npz", **bedlam_columns())
    for name in bedlam_columns()["imgname"]:
        image(folder / str(name))
    return "all_npz_12_training"


def emdb_sequence(frames: int = 4) -> dict[str, Any]:
    """eth-ait/emdb dataset.md."""
    return {
        "gender": "female",
        "name": "P0_00_walk",
        "emdb1": True,
        "emdb2": np.bool_(False),
        "n_frames": frames,
        "good_frames_mask": np.array([True, False, True, True]),
        "camera": {
            "intrinsics": np.array([[95.0, 0.0, 32.0], [0.0, 95.0, 24.0], [0.0, 0.0, 1.0]]),
            "extrinsics": np.stack([rigid(frame) for frame in range(frames)]),
            "width": SIZE[0],
            "height": SIZE[1],
        },
        "smpl": {
            "poses_root": numbers(frames, 3),
            "poses_body": numbers(frames, 69),
            "trans": numbers(frames, 3),
            "betas": numbers(10),
        },
        "kp2d": numbers(frames, 24, 2, scale=20),
        "bboxes": {"bboxes": np.tile([4.0, 6.0, 34.0, 46.0], (frames, 1)), "invalid_idxs": np.array([1, 3])},
    }


def emdb(folder: Path) -> str:
    sequence = folder / "P0" / "00_walk"
    sequence.mkdir(parents=True)
    (sequence / "P0_00_walk_data.pkl").write_bytes(pickle.dumps(emdb_sequence()))
    for frame in range(4):
        image(sequence / "images" / f"{frame:05d}.jpg")
    return "emdb1"


def coco_records() -> dict[str, list[dict[str, Any]]]:
    """cocodataset.org, "Data format": object and keypoint detection."""
    person = {"category_id": 1, "iscrowd": 0, "image_id": 139, "area": 600.0, "bbox": [10.0, 5.0, 20.0, 30.0]}
    labelled = [value for joint in range(17) for value in (12 + joint, 20, (0, 1, 2)[joint % 3])]
    return {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "width": SIZE[0], "height": SIZE[1]}],
        "annotations": [
            {**person, "id": 7, "keypoints": labelled, "num_keypoints": 11},
            {**person, "id": 8, "keypoints": [0] * 51, "num_keypoints": 0},
            {**person, "id": 9, "keypoints": labelled, "num_keypoints": 11, "iscrowd": 1},
        ],
    }


def coco(folder: Path) -> str:
    write_json(folder / "annotations" / "person_keypoints_val2017.json", coco_records())
    image(folder / "val2017" / "000000000139.jpg")
    return "val2017"


# By the source that reads them; where it reads two, the second has the writer's name as well.
LAYOUTS: dict[str, Callable[[Path], str]] = {
    "human36m": human36m,
    "3dpw": pw3d,
    "3dpw-coco": pw3d_coco,
    "humandata": humandata,
    "hmr2": hmr2,
    "spin": spin_pw3d,
    "spin h36m": spin_h36m,
    "bedlam": bedlam,
    "emdb": emdb,
    "coco": coco,
}
