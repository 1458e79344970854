"""The data types that all packages share.

Frames and units: the camera frame has x right, y down and z forward; lengths are in metres; image coordinates are in
pixels, with the origin at the top-left corner of the top-left pixel. Rotations are axis-angle vectors (radians) in all
public interfaces; inside the policy they are 6D (Zhou et al., CVPR 2019, arXiv 1812.07035). `global_orient` and
`transl` place a body in the camera frame in the same way as SMPL: vertices are posed about the rest pelvis, then
`transl` is added.

Ground truth has its own type. A `Sample` is the input from one photograph; a `Labelled` pairs it with its `Truth`. Only
pretraining, exploration and evaluation use `Labelled`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

__all__ = [
    "JOINT_NAMES",
    "LANDMARKS",
    "NUM_BETAS",
    "NUM_JOINTS",
    "NUM_POINTS",
    "OTHER_POINT",
    "OTHER_SIDE",
    "PARENTS",
    "POINT_NAMES",
    "SURFACE_POINT_NAMES",
    "BatchDetector",
    "BodyParams",
    "Box",
    "Camera",
    "Detection",
    "Detector",
    "Frame",
    "Hypotheses",
    "Labelled",
    "Posed",
    "Renderer",
    "Sample",
    "Scorer",
    "Truth",
]

JOINT_NAMES = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
    "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hand", "right_hand",
)  # fmt: skip
PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
NUM_JOINTS = len(JOINT_NAMES)
# Points that detectors report: the joints, then points of the body's surface (`hmr.body.surface_points`).
SURFACE_POINT_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_heel", "right_heel", "left_big_toe",
    "right_big_toe", "left_small_toe", "right_small_toe", "left_index_knuckle", "right_index_knuckle",
    "left_pinky_knuckle", "right_pinky_knuckle", "left_thumb_knuckle", "right_thumb_knuckle",
)  # fmt: skip
POINT_NAMES = JOINT_NAMES + SURFACE_POINT_NAMES
NUM_POINTS = len(POINT_NAMES)

# smplx's names of vertices, in the order in which the default body's file holds them.
LANDMARKS = (
    "nose", "reye", "leye", "rear", "lear", "rthumb", "rindex", "rmiddle", "rring", "rpinky", "lthumb",
    "lindex", "lmiddle", "lring", "lpinky", "LBigToe", "LSmallToe", "LHeel", "RBigToe", "RSmallToe", "RHeel",
)  # fmt: skip


def _other_side(name: str) -> str:
    side, _, rest = name.partition("_")
    return {"left": f"right_{rest}", "right": f"left_{rest}"}.get(side, name)


OTHER_POINT = [
    POINT_NAMES.index(_other_side(name)) for name in POINT_NAMES
]  # of each point, in a mirror image
OTHER_SIDE = OTHER_POINT[:NUM_JOINTS]
NUM_BETAS = 10


@dataclass(frozen=True)
class BodyParams:
    """SMPL parameters of any batch shape: axis-angle rotations, shape, translation in the camera frame."""

    global_orient: Float[Tensor, "*batch 3"]
    body_pose: Float[Tensor, "*batch 23 3"]
    betas: Float[Tensor, "*batch 10"]
    transl: Float[Tensor, "*batch 3"]  # metres

    @property
    def batch_shape(self) -> torch.Size:
        return self.global_orient.shape[:-1]

    @property
    def is_finite(self) -> bool:
        return all(bool(tensor.isfinite().all()) for tensor in _tensors(self))

    def __getitem__(self, index: int | slice | Tensor) -> BodyParams:
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> BodyParams:
        return self._map(lambda tensor: tensor.to(device))

    def flatten(self) -> BodyParams:
        """The same bodies with one batch dimension."""
        dims = len(self.batch_shape)
        return self._map(lambda tensor: tensor.reshape(-1, *tensor.shape[dims:]))

    @staticmethod
    def stack(items: Sequence[BodyParams]) -> BodyParams:
        return BodyParams(*(torch.stack(column) for column in zip(*map(_tensors, items), strict=True)))

    @staticmethod
    def cat(items: Sequence[BodyParams]) -> BodyParams:
        return BodyParams(*(torch.cat(column) for column in zip(*map(_tensors, items), strict=True)))

    def _map(self, function) -> BodyParams:  # noqa: ANN001  (Tensor -> Tensor)
        return BodyParams(*(function(tensor) for tensor in _tensors(self)))


def _tensors(params: BodyParams) -> tuple[Tensor, ...]:
    return params.global_orient, params.body_pose, params.betas, params.transl


@dataclass(frozen=True)
class Box:
    """An axis-aligned rectangle in the image, in pixels. It may extend beyond the border."""

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        if not (self.x1 > self.x0 and self.y1 > self.y0):
            raise ValueError(f"a box must have x1 > x0 and y1 > y0, not {dataclasses.astuple(self)}")

    @property
    def center(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    @property
    def side(self) -> float:
        return max(self.x1 - self.x0, self.y1 - self.y0)

    def square(self, scale: float = 1.0) -> Box:
        """The smallest square with the same centre that contains the box, with its side multiplied by `scale`."""
        (cx, cy), half = self.center, self.side * scale / 2
        return Box(cx - half, cy - half, cx + half, cy + half)

    def iou(self, other: Box) -> float:
        """Intersection over union, 0 to 1."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        shared = max(width, 0.0) * max(height, 0.0)
        areas = sum((box.x1 - box.x0) * (box.y1 - box.y0) for box in (self, other))
        return shared / (areas - shared)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion; focal length and principal point in pixels of its own image."""

    focal_px: float
    cx_px: float
    cy_px: float
    width: int
    height: int

    @property
    def K(self) -> Float[Tensor, "3 3"]:
        return torch.tensor(
            [[self.focal_px, 0.0, self.cx_px], [0.0, self.focal_px, self.cy_px], [0.0, 0.0, 1.0]]
        )

    @staticmethod
    def estimate(width: int, height: int) -> Camera:
        """The usual estimate for a photograph of unknown focal length: the focal length is the image diagonal (a
        diagonal field of view of 53 degrees; CLIFF, arXiv 2208.00571, section 3.3), the principal point the centre."""
        return Camera(float(np.hypot(width, height)), width / 2, height / 2, width, height)

    @staticmethod
    def from_numbers(numbers: Sequence[float]) -> Camera:
        """The camera whose fields, in their order, are these numbers, as files hold them."""
        focal_px, cx_px, cy_px, width, height = numbers
        return Camera(focal_px, cx_px, cy_px, int(width), int(height))

    def project(self, points_cam_m: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 2"]:
        """Pixels of points in front of the camera. Depth is clamped to 1 cm to avoid a division by zero."""
        x, y, z = points_cam_m.unbind(-1)
        z = z.clamp_min(0.01)
        return torch.stack([self.focal_px * x / z + self.cx_px, self.focal_px * y / z + self.cy_px], dim=-1)

    def resize(self, width: int, height: int) -> Camera:
        """The camera of the whole image, resampled to `width` x `height` pixels of the same aspect ratio."""
        scale = width / self.width
        return Camera(self.focal_px * scale, self.cx_px * scale, self.cy_px * scale, width, height)

    def crop(self, box: Box, size: int) -> Camera:
        """The camera of the crop to `box` (a square), resampled to `size` x `size` pixels."""
        zoom = size / (box.x1 - box.x0)
        return Camera(
            self.focal_px * zoom, (self.cx_px - box.x0) * zoom, (self.cy_px - box.y0) * zoom, size, size
        )


@dataclass(frozen=True)
class Sample:
    """One person in one photograph. Box, camera and detection are detected or estimated, never ground truth."""

    id: str  # opaque: reveals nothing about the scene, the pose or the split
    image: UInt8[np.ndarray, "height width 3"]
    box: Box  # detected, or given by a user
    camera: Camera  # estimated
    detection: Detection | None = (
        None  # stored with the image (`hmr.detection.simulated`); None: a detector is run
    )


@dataclass(frozen=True)
class Truth:
    """The ground truth of a sample, from a renderer or from motion capture."""

    params: BodyParams  # batch shape ()
    camera: Camera
    joints_cam_m: Float[Tensor, "24 3"]
    keypoints_px: Float[Tensor, "24 2"]
    visible: Bool[Tensor, "24"]  # inside the image, and not occluded by anything but the body itself
    mask: Bool[np.ndarray, "height width"]  # pixels where the person is visible


@dataclass(frozen=True)
class Labelled:
    sample: Sample
    truth: Truth


@dataclass(frozen=True)
class Hypotheses:
    """A group of G bodies for one sample, and the camera that was used to estimate them."""

    params: BodyParams  # batch shape (G,)
    camera: Camera

    def __post_init__(self) -> None:
        if len(self.params.batch_shape) != 1:
            raise ValueError(f"a group must have one batch dimension, not {tuple(self.params.batch_shape)}")

    def __len__(self) -> int:
        return self.params.batch_shape[0]


@runtime_checkable
class Scorer(Protocol):
    """Scores a group: one value per hypothesis, higher is better, None if scoring failed."""

    @property
    def name(self) -> str: ...

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]: ...


@dataclass(frozen=True)
class Posed:
    """Posed meshes and joints, in the camera frame."""

    vertices_cam_m: Float[Tensor, "*batch vertices 3"]
    joints_cam_m: Float[Tensor, "*batch 24 3"]


@dataclass(frozen=True)
class Frame:
    """A batch of renderings by one camera. In the background depth and normals are 0, and face ids are -1."""

    depth_m: Float[np.ndarray, "batch height width"]
    normals_cam: Float[np.ndarray, "batch height width 3"]  # unit length, facing the camera (z <= 0)
    mask: Bool[np.ndarray, "batch height width"]
    face_ids: Int[np.ndarray, "batch height width"]

    def __len__(self) -> int:
        return self.mask.shape[0]


@runtime_checkable
class Renderer(Protocol):
    """Renders meshes. Every implementation passes tests/contracts/test_renderer.py."""

    name: str

    def render(
        self,
        vertices_cam_m: Float[np.ndarray, "batch vertices 3"],
        faces: Int[np.ndarray, "faces 3"],
        camera: Camera,
    ) -> Frame: ...


@dataclass(frozen=True)
class Detection:
    """A detector's output for one person: observed points in pixels of the whole image, in the order of `POINT_NAMES`.

    A point that the detector does not report has `sigma_px` inf and `visibility` 0; its position means nothing. A depth
    that it does not report has `depth_sigma_m` inf.
    """

    points_px: Float[Tensor, "41 2"]
    sigma_px: Float[Tensor, "41"]  # the detector's own standard deviation per coordinate
    visibility: Float[Tensor, "41"]  # probability that the point is visible, 0 to 1
    depth_m: Float[Tensor, "41"]  # behind the pelvis, along the camera's axis
    depth_sigma_m: Float[Tensor, "41"]
    # probability that the person is visible, over the square `mask_box`; None from detectors without masks
    mask: Float[np.ndarray, "size size"] | None = None
    mask_box: Box | None = None
    # 3D joints relative to the pelvis, along the camera's axes; None from detectors of 2D points alone
    joints_root_m: Float[Tensor, "24 3"] | None = None
    confidence: float = 1.0  # that there is a person, 0 to 1

    def __post_init__(self) -> None:
        if (self.mask is None) != (self.mask_box is None):
            raise ValueError("a mask needs a box, and a box of a mask needs a mask")

    @property
    def observed(self) -> Bool[Tensor, "41"]:
        return self.sigma_px.isfinite()

    @property
    def keypoints_px(self) -> Float[Tensor, "24 2"]:
        """Positions of the joints."""
        return self.points_px[:NUM_JOINTS]

    @property
    def keypoint_sigma_px(self) -> Float[Tensor, "24"]:
        return self.sigma_px[:NUM_JOINTS]

    @property
    def keypoint_visibility(self) -> Float[Tensor, "24"]:
        return self.visibility[:NUM_JOINTS]

    @staticmethod
    def from_points(
        names: Sequence[str],
        points_px: Float[Tensor, "reported 2"],
        sigma_px: Float[Tensor, "reported"],
        visibility: Float[Tensor, "reported"],
        depth_m: Float[Tensor, "reported"] | None = None,
        depth_sigma_m: Float[Tensor, "reported"] | None = None,
        *,
        mask: Float[np.ndarray, "size size"] | None = None,
        mask_box: Box | None = None,
        joints_root_m: Float[Tensor, "24 3"] | None = None,
        confidence: float = 1.0,
    ) -> Detection:
        """A detection with the points `names`; all others are not reported. Raises ValueError for an unknown name."""
        rows = [POINT_NAMES.index(name) for name in names]

        def column(values: Tensor | None, missing: float) -> Tensor:
            full = torch.full((NUM_POINTS,), missing)
            if values is not None:
                full[rows] = values.detach().float().cpu()
            return full

        return Detection(
            torch.stack([column(points_px[:, axis], 0.0) for axis in (0, 1)], dim=-1),
            column(sigma_px, torch.inf),
            column(visibility, 0.0),
            column(depth_m, 0.0),
            column(depth_sigma_m, torch.inf),
            mask, mask_box, joints_root_m, confidence,
        )  # fmt: skip


@runtime_checkable
class Detector(Protocol):
    """Finds the people in an image, and the keypoints and mask of one person."""

    name: str

    def find(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Box]: ...

    def detect(self, sample: Sample) -> Detection: ...


@runtime_checkable
class BatchDetector(Detector, Protocol):
    """A detector that processes several people, or several crops of one person, in one batch."""

    @property
    def is_flip_tested(self) -> bool:
        """Whether each detection also uses the mirrored image (test-time augmentation)."""
        ...

    def detect_batch(self, samples: Sequence[Sample]) -> list[Detection]: ...
