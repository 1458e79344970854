"""3DPW, from its official pickles (von Marcard et al., ECCV 2018).

    FOLDER/sequenceFiles/{train,validation,test}/SEQUENCE.pkl
    FOLDER/imageFiles/SEQUENCE/image_00000.jpg

The pickles are read with `common.reading.array_files.restricted_load`. Their readme has the names `gender` and
`poses2D`; the files and all loaders use `genders` and `poses2d`. The number of an image is the index of the frame in
`poses` (SPIN `datasets/preprocess/pw3d.py`), not its entry in `img_frame_ids`, which indexes the 60 Hz arrays.

The frames are those of the 3DPW challenge (aymenmir1/3dpw-eval, `evaluate.py`): the camera is aligned
(`campose_valid`) and at least six 2D joints were detected (`poses2d` is not all zero). The challenge compares SMPL's 24
joints of gendered bodies relative to joint 0. SPIN and HMR2 also select frames by the camera, but regress the joints of
Human3.6M. The box is SPIN's: a square around the detected joints, 1.2 times their extent.
Joints far from the image are ignored (hmr/datasets/flaws.py).

Left out: clothed templates, textures, and the 60 Hz poses, which have no images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.reading.array_files import restricted_load
from common.reading.image_files import image_size
from common.reading.validate import IMAGE_MISSING, numbers, require, rows
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
    gender_of,
    pinhole,
    strings,
    ten_betas,
    tensor,
    to_camera_frame,
)
from hmr.datasets.flaws import box_of_keypoints
from hmr.datasets.joints import PW3D18, SMPL24
from hmr.types import Camera

__all__ = ["PW3D", "read_pw3d"]

BOX_SCALE = 1.2
_KEYS = (
    "sequence", "poses", "betas", "trans", "genders", "poses2d", "jointPositions", "cam_poses", "cam_intrinsics",
    "campose_valid",
)  # fmt: skip


@dataclass(frozen=True)
class _Actor:
    """One person of one sequence; arrays have one row per frame."""

    poses: np.ndarray
    trans_world_m: np.ndarray
    joints_world_m: np.ndarray
    keypoints: np.ndarray  # (frames, 3, 18): x, y, confidence
    camera_valid: np.ndarray
    betas: torch.Tensor
    gender: Gender


def read_pw3d(folder: PathLike, split: str) -> Iterator[Annotation | Dropped]:
    """Raises FileNotFoundError without sequences, and ValueError for a pickle of another layout."""
    folder = Path(folder)
    files = sorted((folder / "sequenceFiles" / split).glob("*.pkl"))
    if not files:
        raise FileNotFoundError(f"there is no sequence (*.pkl) at {folder / 'sequenceFiles' / split}")
    for path in files:
        content = restricted_load(path)
        require(content, _KEYS, str(path))
        yield from _sequence(folder, path, content)


def _sequence(folder: Path, path: Path, content: dict[str, Any]) -> Iterator[Annotation | Dropped]:
    sequences = strings(content["sequence"])  # a string or an array of one
    if len(sequences) != 1:
        raise ValueError(f"sequence of {path} holds {len(sequences)} names, not one")
    images = f"imageFiles/{sequences[0]}"
    frames = len(_entries(content["cam_poses"]))
    cam_from_world = rows(content["cam_poses"], frames, (4, 4), f"cam_poses of {path}")
    matrix = numbers(content["cam_intrinsics"], (3, 3), f"cam_intrinsics of {path}")
    names = [f"{images}/image_{frame:05d}.jpg" for frame in range(frames)]
    first = next((folder / name for name in names if (folder / name).is_file()), None)
    camera = first and pinhole(matrix[[0, 1], [0, 1]], matrix[:2, 2], image_size(first), str(path))
    actors = [_actor(content, actor, frames, path) for actor in range(len(_entries(content["poses"])))]
    for frame, extrinsics in enumerate(cam_from_world):
        for number, actor in enumerate(actors):
            if actor.camera_valid[frame] and actor.keypoints[frame].any():
                image, person = names[frame], str(number)
                if camera is None:  # no frame has an image, so the size of the images is not known
                    yield Dropped(IMAGE_MISSING, image)
                    continue
                yield annotated_or_dropped(_annotation, image, person, actor, frame, extrinsics, camera)


def _actor(content: dict[str, Any], actor: int, frames: int, path: Path) -> _Actor:
    def entry(key: str) -> tuple[Any, str]:
        entries, what = _entries(content[key]), f"{key}[{actor}] of {path}"
        if len(entries) <= actor:
            people = len(_entries(content["poses"]))
            raise ValueError(f"{what} is missing; there are poses of {people} people")
        return entries[actor], what

    def column(key: str, *shape: int) -> np.ndarray:
        value, what = entry(key)
        return rows(value, frames, shape, what)

    return _Actor(
        column("poses", 72),
        column("trans", 3),
        column("jointPositions", 72).reshape(frames, 24, 3),
        column("poses2d", 3, 18),
        column("campose_valid").astype(bool),
        ten_betas(*entry("betas")),
        gender_of(*entry("genders")),
    )


def _entries(value: Any) -> Sequence[Any] | np.ndarray:
    """The entries of a column, one per person or frame; a single value counts as one entry."""
    return value if isinstance(value, list | tuple) else np.atleast_1d(value)


def _annotation(
    image: str, person: str, actor: _Actor, frame: int, cam_from_world: np.ndarray, camera: Camera
) -> Annotation:
    joints = tensor(actor.joints_world_m[frame] @ cam_from_world[:3, :3].T + cam_from_world[:3, 3])
    pose = tensor(actor.poses[frame].reshape(24, 3))
    fit = SmplFit(
        "smpl",
        actor.gender,
        to_camera_frame(actor.poses[frame, :3], cam_from_world),
        pose[1:],
        actor.betas,
        Placement.of_world(tensor(actor.trans_world_m[frame]), tensor(cam_from_world)),
    )
    xyc, size = actor.keypoints[frame].T, (camera.width, camera.height)
    return Annotation(
        image,
        person,
        box_of_keypoints(xyc, size, f"poses2d of {image}#{person}").square(BOX_SCALE),
        camera,
        fit,
        (Joints(SMPL24, joints, torch.ones(24, dtype=torch.bool), "camera"),),
        (Keypoints(PW3D18, tensor(xyc[:, :2]), tensor(xyc[:, 2]).clamp(0, 1)),),
    )


PW3D = Source(
    "3dpw",
    ("train", "validation", "test"),
    "3DPW's own pickles; frames and SMPL's 24 joints as the 3DPW challenge has them (aymenmir1/3dpw-eval)",
    read_pw3d,
)
