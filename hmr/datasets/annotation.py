"""The annotation of one person in one image of a real data set, which is usually incomplete.

`Truth` (hmr/types.py) comes from a renderer. A real data set has less: 14 joints, or SMPL parameters of a gendered
body, or only keypoints, and none of the supported sets has masks. An `Annotation` contains what the record has, in the
units of this project (metres, camera frame, pixels), and None for the rest; hmr/datasets/labelling.py converts those
that are complete enough to a `Labelled`.

SMPL rotates a body about its rest pelvis J(beta), so converting a translation to another frame requires the body model
of the parameters, which a reader of files does not have. `Placement` stores what the file contains:

    pelvis_cam = turn @ J(beta) + offset,    transl = pelvis_cam - J(beta)

    the file gives         turn       offset
    pelvis, camera frame   0          position of the pelvis
    transl, camera frame   identity   transl
    transl, world frame    R          R transl + t, with [R | t] from world to camera

Pixel coordinates are not converted. OpenCV's calibrations place the origin in the centre of the first pixel, half a
pixel from the origin of this project, which is less than the accuracy of the annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from common.reading.validate import NOT_FINITE, FlawedRecord, floats, numbers
from common.storage.files import PathLike
from hmr.datasets.joints import Convention
from hmr.types import NUM_BETAS, Box, Camera

__all__ = [
    "Annotation",
    "Dropped",
    "Gender",
    "Joints",
    "Keypoints",
    "Placement",
    "SmplFit",
    "Source",
    "annotated_or_dropped",
    "box_of_xywh",
    "box_of_xyxy",
    "center_box",
    "gender_of",
    "pinhole",
    "size_of",
    "split_file",
    "strings",
    "ten_betas",
    "tensor",
    "to_camera_frame",
]

Gender = Literal["female", "male", "neutral"]
Result = TypeVar("Result")
MAX_ASPECT = 0.01  # the maximum relative difference of the two focal lengths


@dataclass(frozen=True)
class Joints:
    """3D joints in the camera frame, or ("root") relative to the root of their convention."""

    convention: Convention
    positions_m: Float[Tensor, "joints 3"]
    known: Bool[Tensor, "joints"]
    frame: Literal["camera", "root"]


@dataclass(frozen=True)
class Keypoints:
    """2D joints. `confidence` is 0 for unknown joints, 1 for annotated or calibrated ones, and otherwise that of the
    detector. `visible` is None if the record does not contain visibility."""

    convention: Convention
    positions_px: Float[Tensor, "joints 2"]
    confidence: Float[Tensor, "joints"]
    visible: Bool[Tensor, "joints"] | None = None


@dataclass(frozen=True)
class Placement:
    """The position of a body in the camera frame, independent of the body model (see the module)."""

    turn: Float[Tensor, "3 3"]
    offset_m: Float[Tensor, "3"]

    @staticmethod
    def of_pelvis(pelvis_cam_m: Float[Tensor, "3"]) -> Placement:
        return Placement(torch.zeros(3, 3), pelvis_cam_m)

    @staticmethod
    def of_transl(transl_cam_m: Float[Tensor, "3"]) -> Placement:
        return Placement(torch.eye(3), transl_cam_m)

    @staticmethod
    def of_world(transl_world_m: Float[Tensor, "3"], cam_from_world: Float[Tensor, "4 4"]) -> Placement:
        turn = cam_from_world[:3, :3]
        return Placement(turn, turn @ transl_world_m + cam_from_world[:3, 3])

    def transl_m(self, rest_pelvis_m: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
        """SMPL's translation in the camera's frame, for a body whose unposed pelvis is at `rest_pelvis_m`."""
        return self.turn @ rest_pelvis_m + self.offset_m - rest_pelvis_m


@dataclass(frozen=True)
class SmplFit:
    """Parameters of a body model in the camera frame. Betas are valid only for the model of this gender."""

    model: Literal["smpl", "smplx"]
    gender: Gender | None  # None: not in the record
    global_orient: Float[Tensor, "3"]
    body_pose: Float[Tensor, "23 3"]  # the hands of an SMPL-X body are in the rest pose
    betas: Float[Tensor, "10"] | None
    placement: Placement | None


@dataclass(frozen=True)
class Annotation:
    """One person in one image. `image` is a path within the data set; `person` is unique within the image."""

    image: str
    person: str
    box: Box
    camera: Camera | None = None
    smpl: SmplFit | None = None
    joints: tuple[Joints, ...] = ()
    keypoints: tuple[Keypoints, ...] = ()
    image_size: tuple[int, int] | None = None  # width and height that the record states

    @property
    def name(self) -> str:
        return f"{self.image}#{self.person}"


@dataclass(frozen=True)
class Dropped:
    """A record that cannot be used, in the place of its annotation. `reason` is equal for records of the same flaw."""

    reason: str
    missing_image: str | None = None  # the path within the data set


@dataclass(frozen=True)
class Source:
    """A supported data set: `read(folder, split)` yields the records of a split in a fixed order.

    splits: the allowed names; empty if a split is named by a file in the folder.
    follows: one sentence on the protocol and the public code that the selection of frames and joints follows.
    """

    name: str
    splits: tuple[str, ...]
    follows: str
    read: Callable[[Path, str], Iterator[Annotation | Dropped]]


def annotated_or_dropped(annotate: Callable[..., Result], *record: Any) -> Result | Dropped:
    """`annotate(*record)`, or the reason for which this record cannot be used. Other errors are passed on."""
    try:
        return annotate(*record)
    except FlawedRecord as flaw:
        return Dropped(flaw.reason, flaw.missing_image)


def pinhole(
    focal_px: Float[np.ndarray, "2"], center_px: Float[np.ndarray, "2"], size: tuple[int, int], what: str
) -> Camera:
    """A camera with one focal length, the geometric mean of the two. Human3.6M's differ by 0.1 %, which moves a point
    by 0.05 % of its distance from the principal point.

    Raises ValueError if they differ by more than 1 % (the pixels are not square).
    """
    fx, fy = map(float, focal_px)
    if not np.isfinite([fx, fy]).all():
        raise FlawedRecord(f"the focal length of {what} is not finite", NOT_FINITE)
    if not (fx > 0 and fy > 0) or abs(fx / fy - 1) > MAX_ASPECT:
        raise ValueError(f"a camera must have one focal length; that of {what} has {fx:g} and {fy:g} pixels")
    return Camera(float(np.sqrt(fx * fy)), float(center_px[0]), float(center_px[1]), *size)


def box_of_xywh(value: Any, what: str) -> Box:
    """A box from (x, y, width, height)."""
    x, y, width, height = map(float, numbers(value, (4,), what))
    return box_of_xyxy((x, y, x + width, y + height), what)


def box_of_xyxy(value: Any, what: str) -> Box:
    x0, y0, x1, y1 = map(float, numbers(value, (4,), what))
    if not (x1 > x0 and y1 > y0):
        message = f"{what} is not a box: from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})"
        raise FlawedRecord(message, "box without width or height")
    return Box(x0, y0, x1, y1)


def size_of(image: Mapping[str, Any], what: str) -> tuple[int, int]:
    """`width` and `height` of the record of an image."""
    width, height = numbers([image["width"], image["height"]], (2,), f"width and height of {what}")
    if width < 1 or height < 1:
        raise ValueError(f"{what} is empty: it has {width:g} x {height:g} pixels")
    return int(width), int(height)


def gender_of(text: object, what: str) -> Gender:
    """The gender from "m", "male", "f", "female", "n" or "neutral", as str, bytes or a numpy scalar.

    Raises ValueError for anything else.
    """
    if isinstance(text, np.ndarray | np.generic) and text.size == 1:
        text = text.item()
    word = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    genders: dict[str, Gender] = {"m": "male", "f": "female", "n": "neutral"}
    if word.lower() not in ("m", "male", "f", "female", "n", "neutral"):
        raise ValueError(f"{what}: the gender must be male, female or neutral, not {word!r}")
    return genders[word.lower()[0]]


def to_camera_frame(
    rotvec: Float[np.ndarray, "3"], cam_from_world: Float[np.ndarray, "4 4"]
) -> Float[Tensor, "3"]:
    """An orientation (axis-angle) from the world frame to the camera frame."""
    rotation = tensor(cam_from_world[:3, :3])
    return roma.rotmat_to_rotvec(rotation @ roma.rotvec_to_rotmat(tensor(rotvec)))


def tensor(array: np.ndarray) -> Float[Tensor, "..."]:
    """A float32 copy."""
    return torch.from_numpy(np.array(array, dtype=np.float32))


def ten_betas(values: Any, what: str) -> Float[Tensor, "10"]:
    """The first ten betas. Raises ValueError if there are fewer."""
    flat = floats(values, what).ravel()
    if len(flat) < NUM_BETAS:
        raise ValueError(f"{what} holds {len(flat)} betas; {NUM_BETAS} are needed")
    return tensor(flat[:NUM_BETAS])


def split_file(folder: PathLike, split: str) -> Path:
    """FOLDER/SPLIT.npz, or .NPZ. Raises FileNotFoundError, with the names of the npz files in the folder."""
    folder = Path(folder)
    files = {file.stem: file for file in folder.glob("*.[nN][pP][zZ]") if file.is_file()}
    if split in files:
        return files[split]
    found = ", ".join(sorted(files)) or "none"
    raise FileNotFoundError(
        f"there is no {split}.npz in {folder}; the npz files there, each a split: {found}"
    )


def strings(values: Any) -> list[str]:
    """One or many names, which numpy stores as str or bytes."""
    found = values if isinstance(values, list) else np.ravel(values)
    return [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in found]


def center_box(center_px: Shaped[np.ndarray, "2"], side_px: Shaped[np.ndarray, " sides"], what: str) -> Box:
    """A box from its centre and one side, or width and height."""
    half = np.broadcast_to(side_px / 2, (2,))
    return box_of_xyxy((*(center_px - half), *(center_px + half)), what)
