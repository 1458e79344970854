"""HumanData, the npz format of mmhuman3d for any data set; used for InstaVariety with NeuralAnnot's fits.

    FOLDER/NAME.npz               --split NAME, e.g. insta_variety_neural_annot_train
    FOLDER/<image_path>           paths as in the file

Follows mmhuman3d's `docs/human_data.md` and `data/data_structures/human_data.py`, and ADHMR's
`lib/dataset/humandata.py`, which reads InstaVariety. Cameras and bodies are in OpenCV's camera frame, the fifth column
of `bbox_xywh` is a confidence, keypoints have 190 joints or, if `__keypoints_compressed__` is set, only those of their
mask. `smpl`, `smplx`, `meta` and `misc` are pickled dictionaries, read by `common.reading.array_files.restricted_npz`.

InstaVariety's betas are zeros and not measurements: betas that are zero in the whole file are read as None. A camera
needs `focal_length`, `principal_point`, `height` and `width` in `meta` (one row per person) or in `misc` (one for all).
ADHMR sets InstaVariety's size to 224 x 224; here, if only the size is missing, it is that of the image.

Left out: hands, face, `cam_param` (a list of mmhuman3d's objects), video paths, and files of `dump_by_pickle`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from common.reading.array_files import restricted_npz
from common.reading.image_files import image_size
from common.reading.validate import existing_image, floats, numbers, require, rows
from common.storage.files import PathLike
from hmr.datasets.annotation import (
    Annotation,
    Dropped,
    Joints,
    Keypoints,
    Placement,
    SmplFit,
    Source,
    annotated_or_dropped,
    box_of_xywh,
    gender_of,
    pinhole,
    size_of,
    split_file,
    strings,
    ten_betas,
    tensor,
)
from hmr.datasets.joints import CONVENTIONS, HUMAN_DATA
from hmr.types import Camera

__all__ = ["HUMANDATA", "read_humandata"]

NUM_JOINTS = 190
_KEYS = ("image_path", "bbox_xywh", "__keypoints_compressed__")
# The first of these that the file has is read, in ADHMR's order.
_KEYS_2D = ("keypoints2d", "keypoints2d_smplx", "keypoints2d_smpl", "keypoints2d_original")
_KEYS_3D = (
    "keypoints3d_cam", "keypoints3d", "keypoints3d_smplx", "keypoints3d_smpl", "keypoints3d_original",
)  # fmt: skip
# The possible numbers of values per person.
_LENS = {"focal_length": (1, 2), "principal_point": (1, 2), "width": (1,), "height": (1,)}
_MODELS = ("smpl", "smplx")
_BODY_JOINTS = {"smpl": 23, "smplx": 21}


@dataclass(frozen=True)
class _File:
    """The checked columns of a file, one row per person."""

    path: Path
    images: list[str]
    boxes: np.ndarray
    members: dict[str, Any]
    lens: Mapping[str, np.ndarray]  # the columns of `_LENS` that are known
    genders: np.ndarray | None
    root_aligned: bool  # joints are relative to the root
    points_2d: tuple[np.ndarray, np.ndarray] | None  # (people, 190, 3) and the mask
    points_3d: tuple[np.ndarray, np.ndarray] | None  # (people, 190, 4)
    model: Literal["smpl", "smplx"] | None
    betas_known: bool


def read_humandata(folder: PathLike, split: str) -> Iterator[Annotation | Dropped]:
    """Raises FileNotFoundError without the file, and ValueError for another layout."""
    folder = Path(folder)
    file = _open(split_file(folder, split))
    return (annotated_or_dropped(_annotation, folder, file, row) for row in range(len(file.images)))


def _open(path: Path) -> _File:
    masks = tuple(f"{key}_mask" for key in (*_KEYS_2D, *_KEYS_3D))
    members = restricted_npz(path, _KEYS, (*_KEYS_2D, *_KEYS_3D, *masks, *_MODELS, "meta", "misc"))
    images = strings(members["image_path"])
    model = cast("Literal['smpl', 'smplx'] | None", next((m for m in _MODELS if m in members), None))
    meta, misc = (_dictionary(members, name, path) for name in ("meta", "misc"))
    genders = meta.get("gender")
    return _File(
        path,
        images,
        rows(members["bbox_xywh"], len(images), (None,), f"bbox_xywh of {path}"),
        members,
        _lens(meta, misc, len(images), path),
        None if genders is None else rows(genders, len(images), (), f"meta.gender of {path}"),
        bool(misc.get("kps3d_root_aligned")),
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
    """Checks the shapes, and returns whether any beta is not zero."""
    if not isinstance(fit, dict):
        raise ValueError(f"{model} of {path} is a {type(fit).__name__}, not a dictionary")
    require(fit, ("body_pose", "global_orient", "betas"), f"{model} of {path}")
    widths = {"body_pose": 3 * _BODY_JOINTS[model], "global_orient": 3, "betas": None, "transl": 3}
    for key in widths.keys() & fit.keys():
        fit[key] = _flat_rows(fit[key], count, widths[key], f"{model}.{key} of {path}")
    return bool(np.any(fit["betas"]))


def _flat_rows(value: Any, count: int, width: int | None, what: str) -> np.ndarray:
    """The value with one row of `width` numbers per person."""
    array = value if isinstance(value, np.ndarray) else floats(value, what)
    flat = array.reshape(len(array), -1) if array.ndim > 1 and len(array) else array
    return rows(flat, count, (width,), what)


def _lens(meta: Mapping[str, Any], misc: Mapping[str, Any], count: int, path: Path) -> dict[str, np.ndarray]:
    """The columns of the cameras, one row per person: from `meta`, else one row of `misc` for all."""
    columns = {}
    for key, widths in _LENS.items():
        source, name = (meta, "meta") if key in meta else (misc, "misc")
        if key not in source:
            continue
        what = f"{name}.{key} of {path}"
        values = floats(source[key], what)
        values = np.tile(values.reshape(1, -1), (count, 1)) if source is misc else values
        columns[key] = _flat_rows(values[:, None] if values.ndim == 1 else values, count, None, what)
        if columns[key].shape[1] not in widths:
            raise ValueError(f"{what} has {columns[key].shape[1]} numbers per person, not {widths[-1]}")
    return columns


def _points(
    members: dict[str, Any], keys: tuple[str, ...], count: int, width: int, path: Path
) -> tuple[np.ndarray, np.ndarray] | None:
    """The first of `keys`, unpacked to 190 joints, and the mask of those that it has."""
    key = next((key for key in keys if key in members), None)
    if key is None:
        return None
    require(members, (f"{key}_mask",), str(path))
    mask = rows(members[f"{key}_mask"], NUM_JOINTS, (), f"{key}_mask of {path}").astype(bool)
    packed = bool(numbers(members["__keypoints_compressed__"], (), f"__keypoints_compressed__ of {path}"))
    points = rows(members[key], count, (int(mask.sum()) if packed else NUM_JOINTS, width), f"{key} of {path}")
    if not packed:
        return points, mask
    full = np.zeros((count, NUM_JOINTS, width), points.dtype)
    full[:, mask] = points
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
    lens = {key: column[row] for key, column in file.lens.items()}
    if not {"focal_length", "principal_point"} <= lens.keys():
        return None
    where = f"row {row} of {file.path}"
    if {"width", "height"} <= lens.keys():
        size = size_of(lens, f"the image of {where}")
    else:
        size = image_size(existing_image(folder, file.images[row]))
    return pinhole(np.resize(lens["focal_length"], 2), np.resize(lens["principal_point"], 2), size, where)


def _fit(file: _File, row: int, where: str) -> SmplFit | None:
    if file.model is None:
        return None
    fit = file.members[file.model]
    pose = np.zeros((23, 3))
    pose[: _BODY_JOINTS[file.model]] = fit["body_pose"][row].reshape(-1, 3)
    genders, transl = file.genders, fit.get("transl")
    return SmplFit(
        file.model,
        "neutral" if genders is None else gender_of(genders[row], where),  # "not required if gender-neutral"
        tensor(fit["global_orient"][row]),
        tensor(pose),
        ten_betas(fit["betas"][row], f"betas of {where}") if file.betas_known else None,
        None if transl is None else Placement.of_transl(tensor(transl[row])),
    )


def _joints(file: _File, row: int) -> Iterator[Joints]:
    if file.points_3d is None:
        return
    frame = "root" if file.root_aligned else "camera"
    for name in ("smpl24", "h36m17"):
        points, known = _select(name, *file.points_3d, row)
        if known.any():
            yield Joints(CONVENTIONS[name], tensor(points[:, :3]), torch.from_numpy(known), frame)


def _keypoints(file: _File, row: int) -> Iterator[Keypoints]:
    if file.points_2d is None:
        return
    for name in ("smpl24", "coco17"):
        points, known = _select(name, *file.points_2d, row)
        if known.any():
            confidence = tensor(points[:, 2] * known).clamp(0, 1)
            yield Keypoints(CONVENTIONS[name], tensor(points[:, :2]), confidence)


def _select(name: str, points: np.ndarray, mask: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    """The joints of a convention among the 190, and which of them are known."""
    indices = [next((i for i in choices if mask[i]), choices[0]) for choices in HUMAN_DATA[name]]
    selected = points[row, indices]
    return selected, mask[indices] & (selected[:, -1] > 0)


HUMANDATA = Source(
    "humandata",
    (),
    "mmhuman3d's HumanData, as ADHMR reads InstaVariety: every row, for training; there is no protocol of evaluation",
    read_humandata,
)
