"""The npz annotation files of ProHMR and HMR2, of SPIN, and of BEDLAM and CameraHMR.

    FOLDER/NAME.npz          --split NAME: h36m_val_p2, 3dpw_test (HMR2), h36m_valid_protocol2 (SPIN) ...
    FOLDER/<imgname>         paths as in the file (images/..., imageFiles/...)

`hmr2` (4D-Humans `hmr2/datasets/image_dataset.py`):

| key                    | shape              | meaning                                                           |
|------------------------|--------------------|-------------------------------------------------------------------|
| `center`, `scale`      | (N, 2), (N,)       | box in pixels; `scale` is its side, or (N, 2) width and height    |
| `body_pose`            | (N, 72)            | axis-angle with the root, valid if `has_body_pose`                |
| `betas`                | (N, 10)            | valid if `has_betas`                                              |
| `body_keypoints_2d`    | (N, 25, 3)         | OpenPose's BODY_25: x, y, confidence                              |
| `extra_keypoints_2d`   | (N, 19, 3)         | the first 19 of SPIN's                                            |
| `body_keypoints_3d`    | (N, 25, 4)         | metres, confidence; 1 to 14 are dropped, as in HMR2's loader       |
| `extra_keypoints_3d`   | (N, 19, 4)         | metres, confidence; used relative to the pelvis                   |

`spin` (SPIN `datasets/base_dataset.py`): `scale` is divided by 200. The other columns depend on the set: `pose`,
`shape`, `gender` and no joints for 3DPW (`preprocess/pw3d.py`); `S` (N, 24, 4), SPIN's 24 joints relative to the
pelvis, and no body for Human3.6M (`preprocess/h36m.py`); `part` (N, 24, 3), 2D keypoints, for training sets.

`bedlam` (CameraHMR `core/datasets/dataset_train.py`): `scale` is divided by 200; `pose_cam`, `shape`, `cam_int`,
`trans_cam` and `cam_ext`, whose last column is added to `trans_cam`; `gtkps`.

All rows of a file are read: HMR2's `h36m_val_p2` and SPIN's `h36m_valid_protocol2` contain S9 and S11, camera
60457274, every 5th frame. hmr/datasets/protocols.py defines the compared joints. Left out: `extra_info`, masks, tar
shards; BEDLAM's hands and betas after the tenth; BEDLAM's close-ups, whose images are stored rotated by
90 degrees: their files are refused, and single ones dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.reading.array_files import restricted_npz
from common.reading.image_files import image_size
from common.reading.validate import existing_image, floats, require, rows
from common.storage.files import PathLike
from hmr.datasets.annotation import (
    Annotation,
    Dropped,
    Gender,
    Joints,
    Keypoints,
    Placement,
    SmplFit,
    Source,
    annotated_or_dropped,
    center_box,
    gender_of,
    pinhole,
    split_file,
    strings,
    ten_betas,
    tensor,
)
from hmr.datasets.flaws import FlawedRecord
from hmr.datasets.joints import HMR2_44, SPIN24, Convention

__all__ = ["BEDLAM", "HMR2", "SPIN", "read_bedlam", "read_hmr2", "read_spin"]

ROTATED_REASON = "the image is stored rotated by 90 degrees"
ROTATED = "closeup"  # in the names of BEDLAM's scenes whose images are stored rotated
SPIN_SCALE = 200  # pixels; SPIN and BEDLAM divide the side of a box by it
_BOX = ("imgname", "center", "scale")
_BODY_3D_DROPPED = slice(1, 15)  # of BODY_25: neck to ankles, which the extra joints define more precisely


def read_hmr2(folder: PathLike, split: str) -> Iterator[Annotation | Dropped]:
    """Raises FileNotFoundError without the file, and ValueError for another layout."""
    path = split_file(folder, split)
    optional = {
        "body_pose": (72,), "has_body_pose": (), "betas": (10,), "has_betas": (), "gender": (),
        "body_keypoints_2d": (25, 3), "extra_keypoints_2d": (19, 3), "body_keypoints_3d": (25, 4),
        "extra_keypoints_3d": (19, 4),
    }  # fmt: skip
    columns = _read(path, _BOX, optional)
    points_2d = _joined(columns, "body_keypoints_2d", "extra_keypoints_2d")
    points_3d = _joined(columns, "body_keypoints_3d", "extra_keypoints_3d")
    if points_3d is not None:
        points_3d[:, _BODY_3D_DROPPED, 3] = 0

    def annotation(row: int, where: str) -> Annotation:
        return Annotation(
            columns["imgname"][row],
            str(row),
            center_box(columns["center"][row], columns["scale"][row], where),
            smpl=_hmr2_fit(columns, row, where),
            joints=_joints(HMR2_44, points_3d, row),
            keypoints=_keypoints(HMR2_44, points_2d, row),
        )

    yield from _all_rows(columns, path, annotation)


def _hmr2_fit(columns: dict[str, Any], row: int, where: str) -> SmplFit | None:
    if "body_pose" not in columns or not columns["has_body_pose"][row]:
        return None
    pose = tensor(columns["body_pose"][row].reshape(24, 3))
    known = "betas" in columns and bool(columns["has_betas"][row])
    betas = tensor(columns["betas"][row]) if known else None
    return SmplFit("smpl", _gender(columns, row, where), pose[0], pose[1:], betas, None)


def read_spin(folder: PathLike, split: str) -> Iterator[Annotation | Dropped]:
    """Raises FileNotFoundError without the file, and ValueError for another layout."""
    path = split_file(folder, split)
    optional = {
        "pose": (72,), "shape": (10,), "has_smpl": (), "gender": (), "S": (24, 4), "part": (24, 3),
    }  # fmt: skip
    columns = _read(path, _BOX, optional)

    def annotation(row: int, where: str) -> Annotation:
        return Annotation(
            columns["imgname"][row],
            str(row),
            center_box(columns["center"][row], SPIN_SCALE * columns["scale"][row], where),
            smpl=_spin_fit(columns, row, where),
            joints=_joints(SPIN24, columns.get("S"), row),
            keypoints=_keypoints(SPIN24, columns.get("part"), row),
        )

    yield from _all_rows(columns, path, annotation)


def _spin_fit(columns: dict[str, Any], row: int, where: str) -> SmplFit | None:
    if not {"pose", "shape"} <= columns.keys() or not columns.get("has_smpl", np.ones(row + 1))[row]:
        return None
    pose = tensor(columns["pose"][row].reshape(24, 3))
    betas = tensor(columns["shape"][row])
    return SmplFit("smpl", _gender(columns, row, where), pose[0], pose[1:], betas, None)


def read_bedlam(folder: PathLike, split: str) -> Iterator[Annotation | Dropped]:
    """Raises FileNotFoundError without the file, and ValueError for another layout and for a file of close-ups, whose
    images are stored rotated by 90 degrees while their boxes are upright."""
    if ROTATED in split:
        raise ValueError(f"the images of {split} are stored rotated by 90 degrees and are not read")
    path = split_file(folder, split)
    wanted = {"pose_cam": (None,), "shape": (None,), "cam_int": (3, 3)}
    optional = {"trans_cam": (3,), "cam_ext": (4, 4), "gtkps": (None, None), "gender": ()}
    columns = _read(path, (*_BOX, *wanted), wanted | optional)

    def annotation(row: int, where: str) -> Annotation:
        matrix, image = columns["cam_int"][row], columns["imgname"][row]
        if ROTATED in image:
            raise FlawedRecord(f"{where}: {ROTATED_REASON}", ROTATED_REASON)
        size = image_size(existing_image(folder, image))
        return Annotation(
            image,
            str(row),
            center_box(columns["center"][row], SPIN_SCALE * columns["scale"][row], where),
            camera=pinhole(matrix[[0, 1], [0, 1]], matrix[:2, 2], size, where),
            smpl=_bedlam_fit(columns, row, where),
            keypoints=_keypoints(HMR2_44, _forty_four(columns.get("gtkps")), row),
        )

    yield from _all_rows(columns, path, annotation)


def _bedlam_fit(columns: dict[str, Any], row: int, where: str) -> SmplFit:
    flat = columns["pose_cam"][row]
    if len(flat) < 66:
        raise ValueError(
            f"pose_cam of {where} has {len(flat)} columns, not 72 (SMPL) or 66 and more (SMPL-X)"
        )
    is_smpl = len(flat) == 72
    pose = np.zeros((24, 3))
    pose[: 24 if is_smpl else 22] = flat[: 72 if is_smpl else 66].reshape(-1, 3)
    placement = None
    if {"trans_cam", "cam_ext"} <= columns.keys():
        placement = Placement.of_transl(tensor(columns["trans_cam"][row] + columns["cam_ext"][row, :3, 3]))
    return SmplFit(
        "smpl" if is_smpl else "smplx",
        _gender(columns, row, where),
        tensor(pose[0]),
        tensor(pose[1:]),
        ten_betas(columns["shape"][row], f"shape of {where}"),
        placement,
    )


def _forty_four(points: np.ndarray | None) -> np.ndarray | None:
    """CameraHMR's 44 joints. The joints of BEDLAM's own files (127 or more of SMPL-X) are not read."""
    if points is None or points.shape[1] != len(HMR2_44) or points.shape[2] not in (2, 3):
        return None
    if points.shape[2] == 3:
        return points
    return np.concatenate([points, np.ones((*points.shape[:2], 1))], axis=2)


def _read(path: Path, names: tuple[str, ...], shapes: dict[str, tuple[int | None, ...]]) -> dict[str, Any]:
    """The named columns and those of `shapes` that the file has, with one row per person."""
    columns = restricted_npz(path, names, [key for key in shapes if key not in names])
    columns["imgname"] = strings(columns["imgname"])
    count = len(columns["imgname"])
    if "pose_cam" in columns:
        pose = floats(columns["pose_cam"], f"pose_cam of {path}")
        columns["pose_cam"] = pose.reshape(-1, 72) if pose.shape[1:] == (24, 3) else pose
    for key in columns.keys() - {"imgname", "scale"}:
        shape = (2,) if key == "center" else shapes[key]
        columns[key] = rows(columns[key], count, shape, f"{key} of {path}")
    scale = floats(columns["scale"], f"scale of {path}")
    if scale.shape not in ((count,), (count, 1), (count, 2)):
        raise ValueError(f"scale of {path} has shape {scale.shape}, not ({count},) or ({count}, 2)")
    columns["scale"] = scale.reshape(count, -1)
    for key, flag in (("body_pose", "has_body_pose"), ("betas", "has_betas")):
        if key in columns:  # HMR2's loader requires both
            require(columns, (flag,), f"{path}, which has {key},")
    return columns


def _all_rows(
    columns: dict[str, Any], path: Path, annotation: Callable[[int, str], Annotation]
) -> Iterator[Annotation | Dropped]:
    for row in range(len(columns["imgname"])):
        yield annotated_or_dropped(annotation, row, f"row {row} of {path}")


def _joined(columns: dict[str, Any], body: str, extra: str) -> np.ndarray | None:
    """25 and 19 joints as 44; the joints of a missing column have confidence 0."""
    if body not in columns and extra not in columns:
        return None
    count, width = len(columns["imgname"]), 3 if body.endswith("2d") else 4
    parts = (
        columns.get(body, np.zeros((count, 25, width))),
        columns.get(extra, np.zeros((count, 19, width))),
    )
    return np.concatenate(parts, axis=1).astype(np.float64)


def _gender(columns: dict[str, Any], row: int, where: str) -> Gender | None:
    return gender_of(columns["gender"][row], f"gender of {where}") if "gender" in columns else None


def _joints(convention: Convention, points: np.ndarray | None, row: int) -> tuple[Joints, ...]:
    if points is None or not points[row, :, 3].any():
        return ()
    known = torch.from_numpy(points[row, :, 3] > 0)
    return (Joints(convention, tensor(points[row, :, :3]), known, "root"),)


def _keypoints(convention: Convention, points: np.ndarray | None, row: int) -> tuple[Keypoints, ...]:
    if points is None or not points[row, :, 2].any():
        return ()
    return (Keypoints(convention, tensor(points[row, :, :2]), tensor(points[row, :, 2]).clamp(0, 1)),)


HMR2 = Source(
    "hmr2",
    (),
    "ProHMR's and HMR2's npz, every row; joints 25 to 37 and 43 of 44 about joint 39 (4D-Humans datasets_eval.yaml)",
    read_hmr2,
)
SPIN = Source(
    "spin",
    (),
    "SPIN's npz, every row; where it has joints (S), 0 to 12 and 18 of 24 about joint 14; where it has bodies alone "
    "(3DPW), 14 joints of the Human3.6M regressor about its joint 0, of bodies of their gender (SPIN eval.py)",
    read_spin,
)
BEDLAM = Source(
    "bedlam",
    (),
    "BEDLAM's and CameraHMR's npz, every row, for training; there is no protocol here",
    read_bedlam,
)
