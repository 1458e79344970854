"""Simulated people before simulated cameras: training data of the policy, drawn on the fly, without rendering.

Poses come from the built-in sampler, or from recorded motion, with rare ones well covered: limbs of different poses are
combined, joints get noise and bodies any orientation. Cameras look from below and above, roll, and have lenses from 20
to 135 mm; the focal length that the policy is given is the true one for some people and the usual estimate for the
others. People are cut off by the frame and hidden behind objects. `hmr.synthetic.detector_noise` turns the projected
points into detections.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import roma
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hmr.body.surface_points import BodyPoints
from hmr.policy.condition import PointEstimates, condition_of
from hmr.policy.parametrization import ROTATION_SIZE, box_features
from hmr.synthetic.detector_noise import PROFILES, observe
from hmr.synthetic.poses import PoseBatch, Preset, sample_poses
from hmr.synthetic.subjects import draw_betas
from hmr.types import JOINT_NAMES, NUM_JOINTS, NUM_POINTS

__all__ = ["PeopleRecipe", "SimulatedPeople", "draw_poses", "simulate"]

LONGER_SIDE_PX = 1000.0
ASPECTS = ((1.0, 1.0), (1.0, 0.75), (0.75, 1.0), (1.0, 0.667), (0.667, 1.0), (1.0, 0.5625), (0.5625, 1.0))
SENSOR_MM = 36.0
MIN_DEPTH_M = 0.6  # of the nearest point
SKIN_M = 0.09  # beyond the points, for the box
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # y-up world facing +z -> camera frame, facing the lens


@dataclass(frozen=True)
class PeopleRecipe:
    """Probabilities and spans of the simulated people."""

    lab_poses: float = 0.35  # of the built-in sampler's presets
    studio_poses: float = 0.0  # the others are `wild`
    mixed_limbs: float = 0.3  # arms or legs taken from another pose
    noisy_pose: float = 0.4
    noise_rad: float = 0.15  # largest standard deviation of a joint's rotation
    any_tilt: float = 0.1  # a body tilted by up to 180 degrees
    betas_std: float = 1.2
    subjects: tuple[int, ...] = ()  # of `hmr.synthetic.subjects`; empty: everybody is another person
    # fixed ones with square images and a floor, in place of the views and lenses below: focal length in mm, elevation
    # and roll in degrees, height in metres
    cameras: tuple[tuple[float, ...], ...] = ()
    wide_view: float = 0.15  # elevation up to 80 degrees and roll up to 45
    focal_mm: tuple[float, float] = (20.0, 135.0)  # for a 36 mm sensor
    known_focal: float = 0.35
    person_fraction: tuple[float, float] = (0.12, 1.3)  # of the shorter image side
    truncated: float = 0.3
    occluders: float = 0.6
    half_hidden: float = 0.12  # everything below (or above) a line

    def __post_init__(self) -> None:
        for camera in self.cameras:
            if len(camera) != 4:
                raise ValueError(
                    "each of cameras takes focal length (mm), elevation, roll (degrees) and height (m), not "
                    f"{list(camera)}"
                )


@dataclass(frozen=True)
class SimulatedPeople:
    features: Float[Tensor, "batch features"]  # the policy's condition
    vector: Float[Tensor, "batch 157"]
    geometry: Float[Tensor, "batch 8"]  # of the camera that the policy is given
    keypoints: Float[Tensor, "batch 24 2"]  # true joints, crop units
    visible: Bool[Tensor, "batch 24"]

    def __len__(self) -> int:
        return len(self.vector)

    def __getitem__(self, rows: Int[Tensor, "rows"]) -> SimulatedPeople:
        return SimulatedPeople(*(getattr(self, column.name)[rows] for column in dataclasses.fields(self)))

    @staticmethod
    def cat(parts: Sequence[SimulatedPeople]) -> SimulatedPeople:
        names = [column.name for column in dataclasses.fields(SimulatedPeople)]
        return SimulatedPeople(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class _Cameras:
    focal_px: Float[Tensor, "batch"]
    width: Float[Tensor, "batch"]
    height: Float[Tensor, "batch"]


def simulate(
    count: int,
    points: BodyPoints,
    generator: torch.Generator,
    recipe: PeopleRecipe | None = None,
    pool: PoseBatch | None = None,
    detectors: Sequence[str] = tuple(PROFILES),
    crop_scale: float = 1.2,
) -> SimulatedPeople:
    """`count` people, the same for the same generator state.

    points: of the body that is simulated. pool: poses to combine, of `draw_poses` or recorded; None:
    new ones. detectors: names of `PROFILES`, drawn in proportion to their shares.
    """
    recipe = recipe or PeopleRecipe()
    poses = draw_poses(count, generator, recipe) if pool is None else _rows(pool, count, generator)
    fixed = _fixed_cameras(count, generator, recipe)
    rotations = _rotations(poses, fixed, generator, recipe)
    betas = draw_betas(count, recipe.betas_std, recipe.subjects, generator)
    points_m = points(rotations, betas).points_m
    cameras = _cameras(count, fixed, generator, recipe)
    pelvis_m = _place(points_m, cameras, generator, recipe)
    if fixed is not None:
        pelvis_m[:, 1] += _drop_m(points_m[:, :NUM_JOINTS] + pelvis_m[:, None], fixed)
    points_px = _project(points_m + pelvis_m[:, None], cameras)
    visible = _visible(points_px, cameras, generator, recipe)
    square = _square(points_px, visible, pelvis_m, cameras, generator, crop_scale)
    center, half = square[:, :2], square[:, 2:] / 2
    in_crop = (points_px - center[:, None]) / half[..., None]
    focal_px = cameras.focal_px
    units_per_m = focal_px / pelvis_m[:, 2] / half[:, 0]
    reported = observe(in_crop, points_m[..., 2], visible, units_per_m, generator, detectors)
    geometry = _geometry(cameras, square, generator, recipe)
    pelvis = torch.cat([units_per_m.log()[:, None], in_crop[:, 0]], dim=-1)
    columns = rotations[..., :2].flatten(1)
    assert columns.shape[1] == ROTATION_SIZE
    return SimulatedPeople(
        condition_of(PointEstimates.from_sigma(*reported), box_features(geometry)),
        torch.cat([columns, betas, pelvis], dim=-1),
        geometry,
        in_crop[:, :NUM_JOINTS],
        visible[:, :NUM_JOINTS],
    )


def _chance(count: int, probability: float, generator: torch.Generator) -> Bool[Tensor, "batch"]:
    return torch.rand(count, generator=generator) < probability


def _span(
    count: int, low: float | int, high: float | int, generator: torch.Generator
) -> Float[Tensor, "batch"]:
    return low + (high - low) * torch.rand(count, generator=generator)


_LEGS = [
    JOINT_NAMES.index(f"{side}_{joint}") - 1
    for joint in ("hip", "knee", "ankle", "foot")
    for side in ("left", "right")
]
_ARMS = [
    JOINT_NAMES.index(f"{side}_{joint}") - 1
    for joint in ("collar", "shoulder", "elbow", "wrist")
    for side in ("left", "right")
]


_HANDS = [JOINT_NAMES.index(f"{side}_hand") - 1 for side in ("left", "right")]


def _fixed_cameras(
    count: int, generator: torch.Generator, recipe: PeopleRecipe
) -> Float[Tensor, "batch 4"] | None:
    """A row of `PeopleRecipe.cameras` for each person, if the recipe has any."""
    if not recipe.cameras:
        return None
    return torch.tensor(recipe.cameras)[torch.randint(len(recipe.cameras), (count,), generator=generator)]


def _rotations(
    poses: PoseBatch,
    fixed: Float[Tensor, "batch 4"] | None,
    generator: torch.Generator,
    recipe: PeopleRecipe,
) -> Float[Tensor, "batch 24 3 3"]:
    """Rotation matrices, the first one from the body to the camera's axes."""
    count, body_pose = len(poses), poses.body_pose.clone()
    for limbs in (_LEGS, _ARMS):
        mixed = _chance(count, recipe.mixed_limbs, generator)[:, None, None]
        body_pose[:, limbs] = torch.where(mixed, poses.body_pose.roll(1, 0)[:, limbs], body_pose[:, limbs])
    scale = _span(count, 0, recipe.noise_rad, generator) * _chance(count, recipe.noisy_pose, generator)
    noise = torch.randn(body_pose.shape, generator=generator)
    noise[:, _HANDS] = 0
    body_pose = body_pose + scale[:, None, None] * noise
    view = _views(count, fixed, generator, recipe) @ roma.rotvec_to_rotmat(poses.orient_up)
    return torch.cat([view[:, None], roma.rotvec_to_rotmat(body_pose)], dim=1)


def draw_poses(count: int, generator: torch.Generator, recipe: PeopleRecipe | None = None) -> PoseBatch:
    """Poses of the built-in sampler, its presets mixed."""
    recipe = recipe or PeopleRecipe()
    lab, studio = round(count * recipe.lab_poses), round(count * recipe.studio_poses)
    counts: tuple[tuple[int, Preset], ...] = (
        (lab, "lab"),
        (count - lab - studio, "wild"),
        (studio, "studio"),
    )
    parts = [sample_poses(number, generator, preset) for number, preset in counts if number]
    order = torch.randperm(count, generator=generator)
    columns = [
        torch.cat([getattr(part, field.name) for part in parts]) for field in dataclasses.fields(PoseBatch)
    ]
    return PoseBatch(*(column[order] for column in columns))


def _rows(poses: PoseBatch, count: int, generator: torch.Generator) -> PoseBatch:
    rows = torch.randint(len(poses), (count,), generator=generator)
    return PoseBatch(poses.body_pose[rows], poses.orient_up[rows], poses.activity[rows])


def _views(
    count: int,
    fixed: Float[Tensor, "batch 4"] | None,
    generator: torch.Generator,
    recipe: PeopleRecipe,
) -> Float[Tensor, "batch 3 3"]:
    """World-to-camera rotations, some of them of a tilted world."""
    if fixed is None:
        wide = _chance(count, recipe.wide_view, generator)
        elevation = torch.where(wide, _span(count, -80, 80, generator), _span(count, -30, 45, generator))
        roll = torch.where(
            wide, _span(count, -45, 45, generator), 6 * torch.randn(count, generator=generator)
        )
    else:
        elevation, roll = fixed[:, 1], fixed[:, 2]
    heading = _span(count, -180, 180, generator)
    tilt = _span(count, 0, math.pi, generator) * _chance(count, recipe.any_tilt, generator)
    direction = _span(count, 0, 2 * math.pi, generator)
    tilted = roma.rotvec_to_rotmat(
        torch.stack([tilt * direction.cos(), torch.zeros(count), tilt * direction.sin()], dim=-1)
    )
    return _level_view(elevation, roll) @ _about(1, torch.deg2rad(heading)) @ tilted


def _level_view(
    elevation_deg: Float[Tensor, "batch"], roll_deg: Float[Tensor, "batch"]
) -> Float[Tensor, "batch 3 3"]:
    """World-to-camera rotations without heading."""
    return _about(2, torch.deg2rad(roll_deg)) @ FLIP @ _about(0, torch.deg2rad(elevation_deg))


def _drop_m(
    joints_cam_m: Float[Tensor, "batch 24 3"], fixed: Float[Tensor, "batch 4"]
) -> Float[Tensor, "batch"]:
    """How far each body must move along the camera's y axis to touch the floor with its lowest joint."""
    up = _level_view(fixed[:, 1], fixed[:, 2])[:, :, 1]
    lowest_m = torch.einsum("bjk,bk->bj", joints_cam_m, up).amin(dim=1)
    return (-fixed[:, 3] - lowest_m) / up[:, 1]


def _about(axis: int, angle: Float[Tensor, "batch"]) -> Float[Tensor, "batch 3 3"]:
    rotvec = torch.zeros(len(angle), 3)
    rotvec[:, axis] = angle
    return roma.rotvec_to_rotmat(rotvec)


def _cameras(
    count: int,
    fixed: Float[Tensor, "batch 4"] | None,
    generator: torch.Generator,
    recipe: PeopleRecipe,
) -> _Cameras:
    side = torch.full((count,), LONGER_SIDE_PX)
    if fixed is not None:
        return _Cameras(fixed[:, 0] / SENSOR_MM * LONGER_SIDE_PX, side, side)
    low, high = (math.log(value) for value in recipe.focal_mm)
    focal_px = torch.exp(_span(count, low, high, generator)) / SENSOR_MM * LONGER_SIDE_PX
    aspect = torch.tensor(ASPECTS)[torch.randint(len(ASPECTS), (count,), generator=generator)]
    return _Cameras(focal_px, side * aspect[:, 0], side * aspect[:, 1])


def _place(
    points_m: Float[Tensor, "batch 41 3"], cameras: _Cameras, generator: torch.Generator, recipe: PeopleRecipe
) -> Float[Tensor, "batch 3"]:
    """Position of the pelvis such that the person has a drawn extent and place in the image."""
    count = len(points_m)
    low, high = points_m.amin(dim=1), points_m.amax(dim=1)
    extent_m = (high - low)[:, :2].amax(dim=1) + 2 * SKIN_M
    shorter = torch.minimum(cameras.width, cameras.height)
    first, last = (math.log(value) for value in recipe.person_fraction)
    fraction = torch.exp(_span(count, first, last, generator))
    nearest_m = (high[:, 2] - low[:, 2]) / 2 + MIN_DEPTH_M
    depth_m = torch.maximum(cameras.focal_px * extent_m / (fraction * shorter), nearest_m)
    size = torch.stack([cameras.width, cameras.height], dim=-1)
    part = (cameras.focal_px * extent_m / depth_m)[:, None] / size
    room = torch.where(
        _chance(count, recipe.truncated, generator)[:, None], 0.4, ((1 - part) / 2).clamp_min(0.03)
    )
    target_px = size * (0.5 + room * (2 * torch.rand(count, 2, generator=generator) - 1))
    center_m = (low + high) / 2
    across_m = (target_px - size / 2) * (depth_m / cameras.focal_px)[:, None]
    return torch.cat([across_m - center_m[:, :2], (depth_m - center_m[:, 2])[:, None]], dim=-1)


def _project(points_cam_m: Float[Tensor, "batch 41 3"], cameras: _Cameras) -> Float[Tensor, "batch 41 2"]:
    depth_m = points_cam_m[..., 2].clamp_min(0.05)
    center = torch.stack([cameras.width, cameras.height], dim=-1)[:, None] / 2
    return points_cam_m[..., :2] * cameras.focal_px[:, None, None] / depth_m[..., None] + center


def _visible(
    points_px: Float[Tensor, "batch 41 2"],
    cameras: _Cameras,
    generator: torch.Generator,
    recipe: PeopleRecipe,
) -> Bool[Tensor, "batch 41"]:
    """Inside the image, and not behind an object. Parts of the body itself hide nothing."""
    count = len(points_px)
    size = torch.stack([cameras.width, cameras.height], dim=-1)[:, None]
    visible = ((points_px >= 0) & (points_px < size)).all(dim=-1)
    low, high = points_px.amin(dim=1), points_px.amax(dim=1)
    span = (high - low).amax(dim=1)
    for number in range(3):
        happens = _chance(count, recipe.occluders if number == 0 else recipe.occluders / 2, generator)
        about = points_px[torch.arange(count), torch.randint(NUM_POINTS, (count,), generator=generator)]
        about = about + 0.1 * span[:, None] * torch.randn(count, 2, generator=generator)
        radii = span[:, None] * torch.rand(count, 2, generator=generator).mul(0.22).add(0.06)
        inside = ((points_px - about[:, None]) / radii[:, None]).square().sum(dim=-1) < 1
        visible &= ~(inside & happens[:, None])
    line = low[:, 1] + (high - low)[:, 1] * _span(count, 0.3, 0.85, generator)
    below = torch.where(
        _chance(count, 0.85, generator)[:, None],
        points_px[..., 1] > line[:, None],
        points_px[..., 1] < line[:, None],
    )
    visible &= ~(below & _chance(count, recipe.half_hidden, generator)[:, None])
    return visible


def _square(
    points_px: Float[Tensor, "batch 41 2"],
    visible: Bool[Tensor, "batch 41"],
    pelvis_m: Float[Tensor, "batch 3"],
    cameras: _Cameras,
    generator: torch.Generator,
    crop_scale: float,
) -> Float[Tensor, "batch 3"]:
    """Centre and side of the square about a detected box: of the whole person or of what is visible, inside the
    image, with errors."""
    count = len(points_px)
    size = torch.stack([cameras.width, cameras.height], dim=-1)
    seen = visible & _chance(count, 0.35, generator)[:, None]
    counted = torch.where(seen.sum(dim=1, keepdim=True) >= 4, seen, torch.ones_like(seen))[..., None]
    pad = (cameras.focal_px / pelvis_m[:, 2].clamp_min(MIN_DEPTH_M) * SKIN_M)[:, None]
    low = torch.where(counted, points_px, math.inf).amin(dim=1) - pad
    high = torch.where(counted, points_px, -math.inf).amax(dim=1) + pad
    low, high = (
        torch.minimum(low.clamp_min(0), size - 8),
        torch.maximum(torch.minimum(high, size), size * 0 + 8),
    )
    side = (high - low).amax(dim=1).clamp_min(8.0)
    jitter = _span(count, 0.02, 0.08, generator)
    center = (low + high) / 2 + (jitter * side)[:, None] * torch.randn(count, 2, generator=generator)
    side = side * torch.exp(jitter * torch.randn(count, generator=generator)) * crop_scale
    return torch.cat([center, side[:, None]], dim=-1)


def _geometry(
    cameras: _Cameras, square: Float[Tensor, "batch 3"], generator: torch.Generator, recipe: PeopleRecipe
) -> Float[Tensor, "batch 8"]:
    """Rows of `hmr.policy.parametrization.geometry_of` for the camera that the policy is given."""
    count = len(square)
    diagonal = torch.hypot(cameras.width, cameras.height)
    focal_px = torch.where(_chance(count, recipe.known_focal, generator), cameras.focal_px, diagonal)
    rest = (cameras.width / 2, cameras.height / 2, cameras.width, cameras.height)
    return torch.cat([torch.stack([focal_px, *rest], dim=-1), square], dim=-1)
