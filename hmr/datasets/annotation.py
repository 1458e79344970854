"""What a record of a real data set knows of one person in one image: some of it, never all.

`Truth` (hmr/types.py) is what a renderer knows. A data set knows less: fourteen joints, or SMPL parameters of a
gendered body, or keypoints alone, and no data set here has masks. An `Annotation` holds what its record really
carries, in the project's units (metres, the camera's frame, pixels), and None where it carries nothing;
hmr/datasets/labelling.py makes a `Labelled` of those that carry enough.

SMPL turns a body about its rest pelvis J(beta), so its translation in another frame needs the body model that
the parameters belong to, which a reader of files does not have. `Placement` keeps what the file does say:

    pelvis_cam = turn @ J(beta) + offset,    transl = pelvis_cam - J(beta)

    the file gives         turn       offset
    pelvis, camera frame   0          its place
    transl, camera frame   identity   transl
    transl, world frame    R          R transl + t, with [R | t] from world to camera

Pixels are taken as the files have them. Calibrations by OpenCV put the origin into the middle of the first
pixel, half a pixel from this project's; the half pixel is below what the annotations are worth and stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from common.validate import floats, numbers
from hmr.datasets.joints import Convention
from hmr.types import NUM_BETAS, Box, Camera

__all__ = [
    "Annotation",
    "Gender",
    "Joints",
    "Keypoints",
    "Placement",
    "SmplFit",
    "Source",
    "box_of_xywh",
    "box_of_xyxy",
    "center_box",
    "gender_of",
    "pinhole",
    "size_of",
    "split_file",
    "ten_betas",
    "tensor",
    "texts",
    "turned",
]

Gender = Literal["female", "male", "neutral"]
MAX_ASPECT = 0.01  # of a pixel: two focal lengths farther apart than this are not one


@dataclass(frozen=True)
class Joints:
    """Joints in space. In the camera's frame, or ("root") only as far as they lie from their convention's root."""

    convention: Convention
    positions_m: Float[Tensor, "joints 3"]
    known: Bool[Tensor, "joints"]
    frame: Literal["camera", "root"]


@dataclass(frozen=True)
class Keypoints:
    """Joints in the image. `confidence` is 0 where nothing is known, 1 where a person or a calibration said it,
    a detector's own number otherwise; `visible` is None where the record does not tell seen from hidden."""

    convention: Convention
    positions_px: Float[Tensor, "joints 2"]
    confidence: Float[Tensor, "joints"]
    visible: Bool[Tensor, "joints"] | None = None


@dataclass(frozen=True)
class Placement:
    """Where a body stands before the camera, as far as can be said without its body model (see the module)."""

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
        """SMPL's translation in the camera's frame, for a body whose unposed pelvis lies at `rest_pelvis_m`."""
        return self.turn @ rest_pelvis_m + self.offset_m - rest_pelvis_m


@dataclass(frozen=True)
class SmplFit:
    """Parameters of a body model in the camera's frame. Betas speak of the model of that gender alone."""

    model: Literal["smpl", "smplx"]
    gender: Gender | None  # None: the record does not say
    global_orient: Float[Tensor, "3"]
    body_pose: Float[Tensor, "23 3"]  # the hands of an SMPL-X body at rest
    betas: Float[Tensor, "10"] | None
    placement: Placement | None


@dataclass(frozen=True)
class Annotation:
    """One person in one image. `image` is a path within the data set, and `person` tells those of it apart."""

    image: str
    person: str
    box: Box
    camera: Camera | None = None
    smpl: SmplFit | None = None
    joints: tuple[Joints, ...] = ()
    keypoints: tuple[Keypoints, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.image}#{self.person}"


@dataclass(frozen=True)
class Source:
    """A layout that can be read: `read(folder, split)` yields a split's annotations in a fixed order.

    splits: the names that `read` takes; empty where a split is any npz file of the folder, by its stem.
    follows: the protocol and the public code that the choice of frames and joints follows, in one sentence.
    """

    name: str
    splits: tuple[str, ...]
    follows: str
    read: Callable[[Path, str], Iterator[Annotation]]


def pinhole(
    focal_px: Float[np.ndarray, "2"], center_px: Float[np.ndarray, "2"], size: tuple[int, int], what: str
) -> Camera:
    """A camera of one focal length, the geometric mean of the two, which Human3.6M has 0.1 % apart: a point then
    moves by 0.05 % of its distance from the principal point.

    Raises ValueError where they differ by more than 1 %: such pixels are not square.
    """
    fx, fy = map(float, focal_px)
    if not (fx > 0 and fy > 0) or abs(fx / fy - 1) > MAX_ASPECT:
        raise ValueError(f"a camera here has one focal length; that of {what} has {fx:g} and {fy:g} pixels")
    return Camera(float(np.sqrt(fx * fy)), float(center_px[0]), float(center_px[1]), *size)


def box_of_xywh(value: Any, what: str) -> Box:
    """Corners from (x, y, width, height)."""
    x, y, width, height = map(float, numbers(value, (4,), what))
    return box_of_xyxy((x, y, x + width, y + height), what)


def box_of_xyxy(value: Any, what: str) -> Box:
    x0, y0, x1, y1 = map(float, numbers(value, (4,), what))
    if not (x1 > x0 and y1 > y0):
        raise ValueError(f"{what} is no box: from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g})")
    return Box(x0, y0, x1, y1)


def size_of(image: Mapping[str, Any], what: str) -> tuple[int, int]:
    """`width` and `height` of an image's record."""
    width, height = numbers([image["width"], image["height"]], (2,), f"width and height of {what}")
    if width < 1 or height < 1:
        raise ValueError(f"{what} has no size: it is {width:g} x {height:g} pixels")
    return int(width), int(height)


def gender_of(text: object, what: str) -> Gender:
    """ "m", "male", "f", "female" or "neutral", as text or bytes, numpy's too. Raises ValueError for anything else."""
    if isinstance(text, np.ndarray | np.generic) and text.size == 1:
        text = text.item()
    word = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    genders: dict[str, Gender] = {"m": "male", "f": "female", "n": "neutral"}
    if word.lower() not in ("m", "male", "f", "female", "n", "neutral"):
        raise ValueError(f"{what}: a body model is male, female or neutral, not {word!r}")
    return genders[word.lower()[0]]


def turned(rotvec: Float[np.ndarray, "3"], cam_from_world: Float[np.ndarray, "4 4"]) -> Float[Tensor, "3"]:
    """An orientation of the world's frame, in the camera's."""
    turn = tensor(cam_from_world[:3, :3])
    return roma.rotmat_to_rotvec(turn @ roma.rotvec_to_rotmat(tensor(rotvec)))


def tensor(array: np.ndarray) -> Float[Tensor, "..."]:
    """A float32 copy."""
    return torch.from_numpy(np.array(array, dtype=np.float32))


def ten_betas(values: Any, what: str) -> Float[Tensor, "10"]:
    """The first ten, of files that have more. Raises ValueError where there are fewer."""
    flat = floats(values, what).ravel()
    if len(flat) < NUM_BETAS:
        raise ValueError(f"{what} holds {len(flat)} betas; {NUM_BETAS} are needed")
    return tensor(flat[:NUM_BETAS])


def split_file(folder: Path, split: str) -> Path:
    """FOLDER/SPLIT.npz. Raises FileNotFoundError that names the npz files which are there."""
    path = folder / f"{split}.npz"
    if path.is_file():
        return path
    there = ", ".join(sorted(file.stem for file in folder.glob("*.npz"))) or "none"
    raise FileNotFoundError(
        f"there is no {path.name} in {folder}; its npz files, any of them a split: {there}"
    )


def texts(values: Any) -> list[str]:
    """Names that numpy kept as text or as bytes, one or many."""
    found = values if isinstance(values, list) else np.ravel(values)
    return [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in found]


def center_box(center_px: Shaped[np.ndarray, "2"], side_px: Shaped[np.ndarray, " sides"], what: str) -> Box:
    """A box from its centre and its one side, or its width and height."""
    half = np.broadcast_to(side_px / 2, (2,))
    return box_of_xyxy((*(center_px - half), *(center_px + half)), what)
