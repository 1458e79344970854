"""EMDB (Kaufmann et al., ICCV 2023), from its pickles, read by the restricted unpickler.

    FOLDER/P0/00_mvs_a/P0_00_mvs_a_data.pkl
    FOLDER/P0/00_mvs_a/images/00000.jpg

Follows eth-ait/emdb: `dataset.md` for the layout, `evaluation_engine.py` for the evaluation: frames of the
`good_frames_mask`, SMPL's 24 joints of gendered bodies relative to the midpoint of the hips (not joint 0), in the
camera frame by `camera.extrinsics` (world to camera). Splits: `emdb1`, the sequences for the comparison of regressors
from single images; `emdb2`, those for global motion; `all`.

The files have no 3D joints, only SMPL parameters in the world frame. Joints in the camera frame require the gendered
SMPL model (hmr/datasets/labelling.py). Frames whose box is in `bboxes.invalid_idxs` are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.reading.array_files import restricted_load
from common.reading.validate import floats, members, numbers, require, rows
from common.storage.files import PathLike
from hmr.datasets.annotation import (
    Annotation,
    Dropped,
    Gender,
    Keypoints,
    Placement,
    SmplFit,
    Source,
    annotated_or_dropped,
    box_of_xyxy,
    gender_of,
    pinhole,
    size_of,
    tensor,
    to_camera_frame,
)
from hmr.datasets.joints import SMPL24
from hmr.types import Camera

__all__ = ["EMDB", "read_emdb"]

_KEYS = (
    "gender", "name", "emdb1", "emdb2", "n_frames", "good_frames_mask", "camera", "smpl", "kp2d", "bboxes",
)  # fmt: skip
_INNER = {
    "camera": ("intrinsics", "extrinsics", "width", "height"),
    "smpl": ("poses_root", "poses_body", "trans", "betas"),
    "bboxes": ("bboxes", "invalid_idxs"),
}


def read_emdb(folder: PathLike, split: str) -> Iterator[Annotation | Dropped]:
    """Raises FileNotFoundError without sequences, and ValueError for a pickle of another layout."""
    folder = Path(folder)
    files = sorted(folder.glob("P*/*/*_data.pkl"))
    if not files:
        raise FileNotFoundError(f"there is no sequence (P*/*/*_data.pkl) in {folder}")
    for path in files:
        content = restricted_load(path)
        require(content, _KEYS, str(path))
        for key, names in _INNER.items():
            members(content[key], dict.fromkeys(names, object), f"{key} of {path}")
        if split == "all" or bool(content[split]):
            yield from _sequence(folder, path, content)


def _sequence(folder: Path, path: Path, content: dict[str, Any]) -> Iterator[Annotation | Dropped]:
    count = int(numbers(content["n_frames"], (), f"n_frames of {path}"))
    camera, smpl, boxes = content["camera"], content["smpl"], content["bboxes"]
    columns = {
        "extrinsics": rows(camera["extrinsics"], count, (4, 4), f"camera.extrinsics of {path}"),
        "poses_root": rows(smpl["poses_root"], count, (3,), f"smpl.poses_root of {path}"),
        "poses_body": rows(smpl["poses_body"], count, (69,), f"smpl.poses_body of {path}"),
        "trans": rows(smpl["trans"], count, (3,), f"smpl.trans of {path}"),
        "boxes": rows(boxes["bboxes"], count, (4,), f"bboxes.bboxes of {path}"),
        "kp2d": rows(content["kp2d"], count, (24, 2), f"kp2d of {path}"),
    }
    good = rows(content["good_frames_mask"], count, (), f"good_frames_mask of {path}").astype(bool)
    good[_frames(boxes["invalid_idxs"], count, f"bboxes.invalid_idxs of {path}")] = False
    matrix = numbers(camera["intrinsics"], (3, 3), f"camera.intrinsics of {path}")
    size = size_of(camera, f"the camera of {path}")
    pinhole_camera = pinhole(matrix[[0, 1], [0, 1]], matrix[:2, 2], size, str(path))
    betas = tensor(numbers(smpl["betas"], (10,), f"smpl.betas of {path}"))
    gender = gender_of(content["gender"], f"gender of {path}")
    images = path.parent.relative_to(folder).as_posix() + "/images"
    for frame in np.flatnonzero(good):
        row = {key: column[frame] for key, column in columns.items()}
        image = f"{images}/{frame:05d}.jpg"
        yield annotated_or_dropped(_annotation, image, row, pinhole_camera, betas, gender, path)


def _annotation(
    image: str, row: dict[str, np.ndarray], camera: Camera, betas: torch.Tensor, gender: Gender, path: Path
) -> Annotation:
    return Annotation(
        image=image,
        person="0",
        box=box_of_xyxy(row["boxes"], f"box of {image} of {path}"),
        camera=camera,
        smpl=_fit(row, betas, gender),
        keypoints=(Keypoints(SMPL24, tensor(row["kp2d"]), torch.ones(24)),),
    )


def _frames(value: Any, count: int, what: str) -> np.ndarray:
    """The value as indices of frames."""
    indices = floats(value, what).ravel()
    outside = indices[~((indices >= 0) & (indices < count))]
    if outside.size:
        raise ValueError(f"{what} names frame {outside[0]:g}; the sequence has frames 0 to {count - 1}")
    return indices.astype(int)


def _fit(row: dict[str, np.ndarray], betas: torch.Tensor, gender: Gender) -> SmplFit:
    return SmplFit(
        "smpl",
        gender,
        to_camera_frame(row["poses_root"], row["extrinsics"]),
        tensor(row["poses_body"].reshape(23, 3)),
        betas,
        Placement.of_world(tensor(row["trans"]), tensor(row["extrinsics"])),
    )


EMDB = Source(
    "emdb",
    ("emdb1", "emdb2", "all"),
    "EMDB's own pickles; good frames and SMPL's 24 joints about the middle of the hips (eth-ait/emdb)",
    read_emdb,
)
