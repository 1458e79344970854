"""Reads and writes groups of bodies as one npz file, so that the output of any HMR model can be critiqued.

The schema, for N people of one image with G hypotheses each (docs/reference/hypotheses-file.md has the details):

| key             | shape                  | unit, meaning                                               |
|-----------------|------------------------|-------------------------------------------------------------|
| `global_orient` | (N, G, 3)              | axis-angle of the root, radians, in the camera's frame      |
| `body_pose`     | (N, G, 69 or 63), or   | axis-angle of the joints after the pelvis, SMPL's order     |
|                 | (N, G, 23 or 21, 3)    |                                                             |
| `betas`         | (N, G, 10)             | shape                                                       |
| `transl`        | (N, G, 3)              | metres, camera frame: x right, y down, z forward            |
| `focal_px`      | ()                     | focal length in pixels of the whole image                   |
| `center_px`     | (2,)                   | principal point (x, y) in pixels of the whole image         |
| `image_size`    | (2,)                   | (width, height) of the image that the camera belongs to     |
| `boxes_xyxy`    | (N, 4), optional       | person boxes in pixels                                      |

For one person the N axis may be omitted. A pose of 21 joints (SMPL-H, SMPL-X) ends at the wrists; SMPL's two hand
joints are then zero. Other keys are ignored, so these keys can be added to a model's own npz.

The outputs of HMR2 and CLIFF are recognised by their keys and converted (`cli.photos.model_outputs`).

Left out: pickled arrays (so that an untrusted file cannot run code), and rotation matrices or 6D
rotations of other models, whose layouts differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cli.photos.intrinsics import Intrinsics
from cli.photos.model_outputs import find_layout
from common.reading.array_files import open_npz
from common.reading.validate import fits_float32
from common.storage.files import PathLike, atomic_path
from hmr.types import NUM_BETAS, BodyParams, Box, Camera, Hypotheses

__all__ = ["read_hypotheses", "write_hypotheses"]

PARAMETERS = ("global_orient", "body_pose", "betas", "transl")
CAMERA = ("focal_px", "center_px", "image_size")
BOXES = "boxes_xyxy"
IMAGE_NAMES = "imgname"  # of CLIFF: the one array that is not of numbers
LARGEST = {"global_orient": 1e3, "body_pose": 1e3, "betas": 1e2, "transl": 1e4}  # more is no body, but damage
# Allowed shapes of each parameter of one hypothesis.
ALLOWED = {
    "global_orient": ((3,),),
    "body_pose": ((69,), (23, 3), (63,), (21, 3)),
    "betas": ((NUM_BETAS,),),
    "transl": ((3,),),
}


def read_hypotheses(
    path: PathLike, image_size: tuple[int, int], min_group: int = 2
) -> list[tuple[Box | None, Hypotheses]]:
    """The people of one image: for each the box, or None if the file has no boxes, and the group of hypotheses.

    image_size: (width, height) in pixels of the image to critique. min_group: 1 if the groups of several files are
    joined. Raises FileNotFoundError if there is no file, and ValueError with the key, its value and the allowed values
    if the file violates the schema.
    """
    path = Path(path)
    arrays = _load(path, image_size)
    params = _read_params(arrays, path, min_group)
    camera = _read_camera(arrays, image_size, path)
    boxes = _read_boxes(arrays, params.batch_shape[0], path)
    return [(box, Hypotheses(params[person], camera)) for person, box in enumerate(boxes)]


def write_hypotheses(path: PathLike, people: Sequence[tuple[Box | None, Hypotheses]]) -> None:
    """Write a file that `read_hypotheses` can read, in one step.

    Raises ValueError unless all groups have the same size and camera, and either all or none have a box.
    """
    groups = [group for _, group in people]
    if len({(len(group), group.camera) for group in groups}) != 1:
        raise ValueError(
            "a hypotheses file needs at least one group, and all groups of the same size and camera"
        )
    camera = groups[0].camera
    params = BodyParams.stack([group.params for group in groups])
    arrays = {key: value.detach().cpu().numpy() for key, value in vars(params).items()}
    arrays |= {
        "focal_px": np.array(camera.focal_px),
        "center_px": np.array([camera.cx_px, camera.cy_px]),
        "image_size": np.array([camera.width, camera.height]),
    }
    boxes = [[box.x0, box.y0, box.x1, box.y1] for box, _ in people if box is not None]
    if boxes:
        if len(boxes) != len(groups):
            raise ValueError(
                f"{len(boxes)} of {len(groups)} groups have a box; either all or none must have one"
            )
        arrays[BOXES] = np.array(boxes)
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _load(path: Path, image_size: tuple[int, int]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"no hypotheses file at {path}")
    with open_npz(path) as archive:
        native = [key for key in (*PARAMETERS, *CAMERA) if key in archive.names]
        layout = find_layout(archive.names) if len(native) < len(PARAMETERS + CAMERA) else None
        if layout is None and (missing := [key for key in (*PARAMETERS, *CAMERA) if key not in native]):
            raise ValueError(f"{path} lacks {_names(missing)}; it has {_names(archive.names) or 'no key'}")
        wanted = layout[0] if layout else [*native, *({BOXES} & set(archive.names))]
        arrays = {key: archive.read(key) for key in wanted}
    _check_numbers(arrays, path)
    return layout[1](arrays, image_size, str(path)) if layout else arrays


def _check_numbers(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    for key, array in arrays.items():
        if key == IMAGE_NAMES:
            continue
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{key} of {path} must hold numbers, not {array.dtype}")
        if not np.isfinite(array).all():
            raise ValueError(
                f"{key} of {path} has {np.count_nonzero(~np.isfinite(array))} NaN or infinite values"
            )
        if not fits_float32(array):
            raise ValueError(f"{key} of {path} has numbers that are infinite in float32")
        if (largest := LARGEST.get(key)) and np.abs(array).max(initial=0) > largest:
            raise ValueError(
                f"{key} of {path} has the number {np.abs(array).max():g}; the largest is {largest:g}"
            )


def _read_params(arrays: Mapping[str, np.ndarray], path: Path, min_group: int) -> BodyParams:
    """Batch shape (N, G)."""
    tensors = {key: _with_person_axis(key, arrays[key], path) for key in PARAMETERS}
    shapes = {key: tuple(tensor.shape[:2]) for key, tensor in tensors.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"the parameters of {path} disagree on (people, hypotheses): {shapes}")
    people, group_size = shapes["betas"]
    if people < 1:
        raise ValueError(f"{path} holds no person")
    if group_size < min_group:
        raise ValueError(
            f"{path} has G = {group_size} hypotheses per person; a group needs at least 2, in one file or in several"
        )
    pose = tensors["body_pose"].reshape(people, group_size, -1, 3)
    hands_flat = torch.zeros(people, group_size, 23 - pose.shape[2], 3)
    return BodyParams(
        tensors["global_orient"], torch.cat([pose, hands_flat], dim=2), tensors["betas"], tensors["transl"]
    )


def _with_person_axis(key: str, array: np.ndarray, path: Path) -> Float[Tensor, "people group *value"]:
    for value_shape in ALLOWED[key]:
        if array.shape[-len(value_shape) :] == value_shape and array.ndim - len(value_shape) in (1, 2):
            lead = array.shape[: array.ndim - len(value_shape)]
            batch = lead if len(lead) == 2 else (1, *lead)
            return torch.from_numpy(array.astype(np.float32).reshape(*batch, *value_shape))
    allowed = " or ".join(
        f"(N, G, {', '.join(map(str, shape))}) or (G, {', '.join(map(str, shape))})" for shape in ALLOWED[key]
    )
    raise ValueError(f"{key} of {path} has shape {array.shape}; allowed are {allowed}")


def _read_camera(arrays: Mapping[str, np.ndarray], image_size: tuple[int, int], path: Path) -> Camera:
    for key, size in (("focal_px", 1), ("center_px", 2), ("image_size", 2)):
        if arrays[key].size != size:
            raise ValueError(f"{key} of {path} has shape {arrays[key].shape}; it must hold {size} number(s)")
    focal = float(arrays["focal_px"].item())
    if focal <= 0:
        raise ValueError(f"focal_px of {path} must be positive, not {focal:g}")
    width, height = (round(value) for value in arrays["image_size"].ravel().tolist())
    if [width, height] != arrays["image_size"].ravel().tolist():
        raise ValueError(f"image_size of {path} must hold whole numbers, not {arrays['image_size'].tolist()}")
    if (width, height) != image_size:
        raise ValueError(
            f"image_size of {path} is {width} x {height}, but the image is {image_size[0]} x {image_size[1]} "
            "(width x height): the camera belongs to another image"
        )
    cx, cy = (float(value) for value in arrays["center_px"].ravel())
    try:
        Intrinsics(focal, (cx, cy)).check(width, height)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Camera(focal, cx, cy, width, height)


def _read_boxes(arrays: Mapping[str, np.ndarray], people: int, path: Path) -> list[Box | None]:
    if BOXES not in arrays:
        return [None] * people
    boxes = arrays[BOXES].reshape(1, 4) if arrays[BOXES].shape == (4,) else arrays[BOXES]
    if boxes.shape != (people, 4):
        raise ValueError(f"{BOXES} of {path} has shape {boxes.shape}; {people} person(s) need ({people}, 4)")
    for box in boxes:
        if not (box[2] > box[0] and box[3] > box[1]):
            raise ValueError(
                f"{BOXES} of {path} must be x0, y0, x1, y1 with x1 > x0 and y1 > y0, not {box.tolist()}"
            )
    return [Box(*map(float, box)) for box in boxes]


def _names(keys: Sequence[str]) -> str:
    return ", ".join(keys)
