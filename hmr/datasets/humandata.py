"""HumanData, mmhuman3d's npz for any data set; here for InstaVariety with NeuralAnnot's fits.

    FOLDER/NAME.npz               --split NAME, e.g. insta_variety_neural_annot_train
    FOLDER/<image_path>           the paths that the file has

Follows mmhuman3d's `docs/human_data.md` and `data/data_structures/human_data.py`, and ADHMR's
`lib/dataset/humandata.py`, which reads InstaVariety. Cameras and bodies are in OpenCV's camera frame, `bbox_xywh`
has a confidence in its fifth column, keypoints have 190 joints or, where `__keypoints_compressed__` is set, only
those of their mask. `smpl`, `smplx`, `meta` and `misc` are pickled dictionaries, which the restricted unpickler
opens.

InstaVariety's betas are zeros, which nobody measured: betas that are zero in the whole file are None here.
A camera needs `focal_length`, `principal_point`, `height` and `width` in `meta`, a row a person, or in `misc`, one
for all; ADHMR sets InstaVariety's size by hand to 224 x 224, so where only the size is missing it is the image's.

Left out: hands, face, `cam_param` (a list of mmhuman3d's own objects), video paths, and files of `dump_by_pickle`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from hmr.datasets.annotation import (
    Annotation,
    Joints,
    Keypoints,
    Placement,
    SmplFit,
    Source,
    box_of_xywh,
    gender_of,
    pinhole,
    ten_betas,
    tensor,
)
from hmr.datasets.joints import CONVENTIONS, HUMAN_DATA
from hmr.datasets.npz_files import split_file
from hmr.layout import image_size, require, rows
from hmr.smpl_file import restricted_npz
from hmr.types import Camera

__all__ = ["HUMANDATA", "read_humandata"]

NUM_JOINTS = 190
_KEYS = ("image_path", "bbox_xywh", "__keypoints_compressed__")
# In ADHMR's order: the first that the file has is read.
_KEYS_2D = ("keypoints2d", "keypoints2d_smplx", "keypoints2d_smpl", "keypoints2d_original")
_KEYS_3D = (
    "keypoints3d_cam", "keypoints3d", "keypoints3d_smplx", "keypoints3d_smpl", "keypoints3d_original",
)  # fmt: skip
_MODELS = ("smpl", "smplx")
_BODY_JOINTS = {"smpl": 23, "smplx": 21}


@dataclass(frozen=True)
class _File:
    """A file's columns, a row a person, checked."""

    path: Path
    images: list[str]
    boxes: np.ndarray
    members: dict[str, Any]
    meta: Mapping[str, Any]
    misc: Mapping[str, Any]
    points_2d: tuple[np.ndarray, np.ndarray] | None  # (people, 190, 3) and the mask
    points_3d: tuple[np.ndarray, np.ndarray] | None  # (people, 190, 4)
    model: Literal["smpl", "smplx"] | None
    betas_known: bool


def read_humandata(folder: Path, split: str) -> Iterator[Annotation]:
    """Raises FileNotFoundError without the file or an image, ValueError where the file is of another layout."""
    file = _open(split_file(folder, split))
    return (_annotation(folder, file, row) for row in range(len(file.images)))


def _open(path: Path) -> _File:
    masks = tuple(f"{key}_mask" for key in (*_KEYS_2D, *_KEYS_3D))
    members = restricted_npz(path, _KEYS, (*_KEYS_2D, *_KEYS_3D, *masks, *_MODELS, "meta", "misc"))
    images = [str(name) for name in members["image_path"]]
    model = cast("Literal['smpl', 'smplx'] | None", next((m for m in _MODELS if m in members), None))
    return _File(
        path,
        images,
        rows(members["bbox_xywh"], len(images), (None,), f"bbox_xywh of {path}"),
        members,
        _dictionary(members, "meta", path),
        _dictionary(members, "misc", path),
        _points(members, _KEYS_2D, len(images), 3, path),
        _points(members, _KEYS_3D, len(images), 4, path),
        model,
        model is not None and _check_fit(members[model], model, len(images), path),
    )


def _dictionary(members: dict[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    value = members.get(name, {})
    if isinstance(value, list) and len(value) == 1:  # documented as (1,), written as ()
        value = value[0]
    if not isinstance(value, dict):
        raise ValueError(f"{name} of {path} is a {type(value).__name__}, not a dictionary")
    return value


def _check_fit(fit: Any, model: str, count: int, path: Path) -> bool:
    """Checks shapes; whether anybody measured the betas."""
    if not isinstance(fit, dict):
        raise ValueError(f"{model} of {path} is a {type(fit).__name__}, not a dictionary")
    require(fit, ("body_pose", "global_orient", "betas"), f"{model} of {path}")
    for key, width in (("body_pose", 3 * _BODY_JOINTS[model]), ("global_orient", 3)):
        fit[key] = rows(
            np.asarray(fit[key]).reshape(len(fit[key]), -1), count, (width,), f"{model}.{key} of {path}"
        )
    return bool(np.any(fit["betas"]))


def _points(
    members: dict[str, Any], keys: tuple[str, ...], count: int, width: int, path: Path
) -> tuple[np.ndarray, np.ndarray] | None:
    """The first of `keys`, unpacked to 190 joints, and which of them it has."""
    key = next((key for key in keys if key in members), None)
    if key is None:
        return None
    require(members, (f"{key}_mask",), str(path))
    mask = rows(members[f"{key}_mask"], NUM_JOINTS, (), f"{key}_mask of {path}").astype(bool)
    packed = bool(members["__keypoints_compressed__"])
    held = rows(members[key], count, (int(mask.sum()) if packed else NUM_JOINTS, width), f"{key} of {path}")
    if not packed:
        return held, mask
    full = np.zeros((count, NUM_JOINTS, width), held.dtype)
    full[:, mask] = held
    return full, mask


def _annotation(folder: Path, file: _File, row: int) -> Annotation:
    where = f"row {row} of {file.path}"
    return Annotation(
        image=file.images[row],
        person=str(row),
        box=box_of_xywh(file.boxes[row, :4], f"bbox_xywh of {where}"),
        camera=_camera(folder, file, row),
        smpl=_fit(file, row, where),
        joints=tuple(_joints(file, row)),
        keypoints=tuple(_keypoints(file, row)),
    )


def _camera(folder: Path, file: _File, row: int) -> Camera | None:
    focal, center = (_of_row(file, key, row) for key in ("focal_length", "principal_point"))
    if focal is None or center is None:
        return None
    width, height = (_of_row(file, key, row) for key in ("width", "height"))
    if width is None or height is None:
        width, height = np.array(image_size(folder / file.images[row]))[:, None]
    return pinhole(
        np.resize(focal, 2),
        np.resize(center, 2),
        (int(width[0]), int(height[0])),
        f"row {row} of {file.path}",
    )


def _of_row(file: _File, key: str, row: int) -> np.ndarray | None:
    """A person's own value from `meta`, else everybody's from `misc`."""
    if key in file.meta:
        return np.asarray(file.meta[key], dtype=np.float64).reshape(len(file.images), -1)[row]
    if key in file.misc:
        return np.asarray(file.misc[key], dtype=np.float64).reshape(-1)
    return None


def _fit(file: _File, row: int, where: str) -> SmplFit | None:
    if file.model is None:
        return None
    fit = file.members[file.model]
    pose = np.zeros((23, 3))
    pose[: _BODY_JOINTS[file.model]] = fit["body_pose"][row].reshape(-1, 3)
    genders = file.meta.get("gender")
    transl = fit.get("transl")
    return SmplFit(
        file.model,
        "neutral" if genders is None else gender_of(genders[row]),  # "not required if gender-neutral"
        tensor(fit["global_orient"][row]),
        tensor(pose),
        ten_betas(fit["betas"][row], f"betas of {where}") if file.betas_known else None,
        None if transl is None else Placement.of_transl(tensor(np.asarray(transl)[row].reshape(3))),
    )


def _joints(file: _File, row: int) -> Iterator[Joints]:
    if file.points_3d is None:
        return
    frame = "root" if file.misc.get("kps3d_root_aligned") else "camera"
    for name in ("smpl24", "h36m17"):
        points, known = _picked(name, *file.points_3d, row)
        if known.any():
            yield Joints(CONVENTIONS[name], tensor(points[:, :3]), torch.from_numpy(known), frame)


def _keypoints(file: _File, row: int) -> Iterator[Keypoints]:
    if file.points_2d is None:
        return
    for name in ("smpl24", "coco17"):
        points, known = _picked(name, *file.points_2d, row)
        if known.any():
            confidence = tensor(points[:, 2] * known).clamp(0, 1)
            yield Keypoints(CONVENTIONS[name], tensor(points[:, :2]), confidence)


def _picked(name: str, points: np.ndarray, mask: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    """A convention's joints among the 190, and which of them are known."""
    picks = [next((i for i in choices if mask[i]), choices[0]) for choices in HUMAN_DATA[name]]
    picked = points[row, picks]
    return picked, mask[picks] & (picked[:, -1] > 0)


HUMANDATA = Source(
    "humandata",
    (),
    "mmhuman3d's HumanData, as ADHMR reads InstaVariety: every row, for training; there is no protocol of evaluation",
    read_humandata,
)
