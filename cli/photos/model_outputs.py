"""Converts the saved outputs of other models to the arrays of a hypotheses file. A file is recognised by its keys.

HMR2 (4D-Humans) saves no parameters itself; its file holds what the model returns, under the names of the code:
the three arrays of `pred_smpl_params`, `pred_cam`, and `box_center`, `box_size`, `img_size` of the batch. CLIFF's file
is that of its `demo.py --save_results`.

Both models add their full-image translation to the vertices of SMPL posed about the rest pelvis, as `transl` is here,
and both look along z with y down, so translations and rotations are taken over unchanged.

Left out: SAM 3D Body, whose output has the parameters of another body model (MHR), not of SMPL.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import roma
import torch
from jaxtyping import Float

__all__ = ["find_layout", "full_image_translation"]

Arrays = dict[str, np.ndarray]
HMR2_KEYS = (
    "global_orient", "body_pose", "betas", "pred_cam", "box_center", "box_size", "img_size",
)  # fmt: skip
CLIFF_KEYS = ("imgname", "pose", "shape", "global_t", "focal_l", "detection_all")
HMR2_FOCAL, HMR2_CROP_PX = 5000.0, 256.0  # EXTRA.FOCAL_LENGTH and MODEL.IMAGE_SIZE of its configuration
ROTATION_TOLERANCE = 1e-3  # of R R' = I, for networks that run in half precision


def find_layout(keys: Collection[str]) -> tuple[tuple[str, ...], Callable[..., Arrays]] | None:
    """The keys to read and the function that converts their arrays; None if the file is of neither model.

    The function takes the arrays, the image's (width, height) and the file's name, and raises ValueError if an array
    does not fit.
    """
    for names, convert in ((HMR2_KEYS, _from_hmr2), (CLIFF_KEYS, _from_cliff)):
        if set(names) <= set(keys):
            return names, convert
    return None


def full_image_translation(
    crop_cameras: Float[np.ndarray, "people group 3"],
    centers_px: Float[np.ndarray, "people 2"],
    sizes_px: Float[np.ndarray, "people"],
    image_size: tuple[int, int],
    focal_px: float,
) -> Float[np.ndarray, "people group 3"]:
    """Translations in the camera of the whole image, from weak-perspective cameras (s, tx, ty) of square crops.

    A length of 1 m is s / 2 of the crop's side at the depth of the body, which gives the depth; the crop's centre is
    then moved from the optical axis to its place in the image.
    """
    scale, shift = crop_cameras[..., 0], crop_cameras[..., 1:]
    px_per_m = sizes_px[:, None] * scale / 2
    offset_px = centers_px - np.array(image_size) / 2
    xy = offset_px[:, None] / px_per_m[..., None] + shift
    return np.concatenate([xy, (focal_px / px_per_m)[..., None]], axis=-1)


def _from_hmr2(arrays: Mapping[str, np.ndarray], image_size: tuple[int, int], where: str) -> Arrays:
    people = max(arrays["box_size"].size, 1)
    centers = _rows(arrays, "box_center", people, (2,), where)[:, 0]
    sizes = _rows(arrays, "box_size", people, (), where)[:, 0]
    in_file = np.unique(_rows(arrays, "img_size", people, (2,), where).reshape(-1, 2), axis=0)
    if len(in_file) != 1:
        raise ValueError(
            f"img_size of {where} has {len(in_file)} different sizes; one photograph is critiqued"
        )
    cameras = _rows(arrays, "pred_cam", people, (3,), where)
    if not (cameras[..., 0] > 0).all() or not (sizes > 0).all():
        raise ValueError(f"the scale of pred_cam and box_size of {where} must be positive")
    focal = HMR2_FOCAL / HMR2_CROP_PX * float(in_file.max())
    size = (int(in_file[0, 0]), int(in_file[0, 1]))
    return {
        "global_orient": _rotvecs(arrays, "global_orient", people, 1, where)[:, :, 0],
        "body_pose": _rotvecs(arrays, "body_pose", people, 23, where),
        "betas": _rows(arrays, "betas", people, (10,), where),
        "transl": full_image_translation(cameras, centers, sizes, size, focal),
        **_camera(focal, size),
    }


def _from_cliff(arrays: Mapping[str, np.ndarray], image_size: tuple[int, int], where: str) -> Arrays:
    """CLIFF's file does not hold the size of the image; its camera is centred in the photograph."""
    if arrays["imgname"].size != 1:
        raise ValueError(f"{where} holds {arrays['imgname'].size} images; run CLIFF on the one photograph")
    people, pose = len(arrays["shape"]), arrays["pose"]
    if pose.ndim == 2:  # --pose_format aa
        rotations = _rows(arrays, "pose", people, (72,), where).reshape(people, -1, 24, 3)
    else:
        rotations = _rotvecs(arrays, "pose", people, 24, where)
    focal = np.unique(arrays["focal_l"])
    if focal.size != 1:
        raise ValueError(
            f"focal_l of {where} has {focal.size} different values; one photograph has one camera"
        )
    found = arrays["detection_all"]
    if found.ndim != 2 or len(found) != people or found.shape[1] < 5:
        raise ValueError(
            f"detection_all of {where} has shape {found.shape}; {people} person(s) need a row each"
        )
    return {
        "global_orient": rotations[:, :, 0],
        "body_pose": rotations[:, :, 1:],
        "betas": _rows(arrays, "shape", people, (10,), where),
        "transl": _rows(arrays, "global_t", people, (3,), where),
        "boxes_xyxy": found[:, 1:5],  # after the index of the image
        **_camera(float(focal.item()), image_size),
    }


def _camera(focal_px: float, image_size: tuple[int, int]) -> Arrays:
    size = np.array(image_size)
    return {"focal_px": np.array(focal_px), "center_px": size / 2, "image_size": size}


def _rows(
    arrays: Mapping[str, np.ndarray], key: str, people: int, shape: tuple[int, ...], where: str
) -> Float[np.ndarray, "people group ..."]:
    """The values of each person. The file may have an axis of hypotheses, and none of people if there is one."""
    array = arrays[key]
    lead = array.shape[: array.ndim - len(shape)]
    has_people = lead[0] == people if lead else people == 1
    if array.shape[len(lead) :] != shape or len(lead) > 2 or not has_people:
        wanted = ", ".join(map(str, (people, *shape)))
        raise ValueError(f"{key} of {where} has shape {array.shape}; {people} person(s) need ({wanted})")
    return array.astype(np.float64).reshape(people, -1, *shape)


def _rotvecs(
    arrays: Mapping[str, Any], key: str, people: int, joints: int, where: str
) -> Float[np.ndarray, "people group joints 3"]:
    matrices = torch.from_numpy(_rows(arrays, key, people, (joints, 3, 3), where))
    error = (matrices @ matrices.mT - torch.eye(3, dtype=matrices.dtype)).abs().max()
    if not (error < ROTATION_TOLERANCE and (torch.linalg.det(matrices) > 0).all()):
        raise ValueError(f"{key} of {where} holds matrices that are not rotations")
    return roma.rotmat_to_rotvec(matrices).numpy()
