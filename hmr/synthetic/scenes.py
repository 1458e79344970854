"""Synthetic scenes with exact ground truth: pose, placement, clothes, light, occlusion and camera effects.

Scenes are drawn in chunks; chunk k depends only on the recipe, the seed and k. Left out: moving hair and cloth, contact
with the scenery, other people.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.seeding import one_thread
from hmr.body.model import REGIONS, Body
from hmr.body.surface_points import BodyPoints
from hmr.render.raster import RasterRenderer, interpolate
from hmr.synthetic.amass import Motion
from hmr.synthetic.detector_noise import observe
from hmr.synthetic.painting import Backdrops, Textures, background, dress, light, photograph, shape_mask
from hmr.synthetic.poses import PoseBatch, sample_poses
from hmr.synthetic.recipe import SceneRecipe
from hmr.synthetic.subjects import draw_betas
from hmr.types import NUM_BETAS, POINT_NAMES, BodyParams, Box, Camera, Detection, Labelled, Sample, Truth

__all__ = ["CHUNK", "Scene", "SceneMaker"]

CHUNK = 32  # scenes posed together
TRUNCATED_OFFSET = 0.3  # largest offset of a truncated person from the centre, as a fraction of the side
DETECTOR_CROP = 1.2  # side of the simulated detector's crop, in sides of the box
MIN_VISIBLE = 0.35  # of the person's pixels in the frame; an occluder that would hide more is left out
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # y-up world facing +z -> camera frame, facing the lens


@dataclass(frozen=True)
class Scene:
    labelled: Labelled
    jpeg: bytes  # the file that `labelled.sample.image` was read from


@dataclass(frozen=True)
class _View:
    """Lens and position of a camera relative to the person."""

    focal_mm: float
    heading_deg: float
    elevation_deg: float
    roll_deg: float
    height_m: float | None = None  # above a floor that the person stands on; None: there is none

    def rotation(self) -> Float[Tensor, "3 3"]:
        """From the world to the camera."""
        angles = (self.heading_deg, self.elevation_deg, self.roll_deg)
        heading, elevation, roll = (torch.tensor(np.deg2rad(a), dtype=torch.float32) for a in angles)
        zero = torch.zeros(())
        about_y = roma.rotvec_to_rotmat(torch.stack([zero, heading, zero]))
        about_x = roma.rotvec_to_rotmat(torch.stack([elevation, zero, zero]))
        about_z = roma.rotvec_to_rotmat(torch.stack([zero, zero, roll]))
        return about_z @ FLIP @ about_x @ about_y

    def drop_m(self, joints_cam_m: Float[Tensor, "24 3"]) -> float:
        """How far a body must move along the camera's y axis to touch the floor with its lowest joint."""
        if self.height_m is None:
            return 0.0
        up = self.rotation()[:, 1]
        return float((-self.height_m - (joints_cam_m @ up).min()) / up[1])


@dataclass(frozen=True)
class _Person:
    """A posed body, in the camera frame."""

    params: BodyParams
    vertices_m: Float[Tensor, "vertices 3"]
    joints_m: Float[Tensor, "24 3"]
    points_m: Float[Tensor, "41 3"]


class SceneMaker:
    """Draws scenes of one recipe and seed; `motion` replaces the recipe's poses by recorded ones, `backdrops` its
    painted backgrounds by photographs."""

    def __init__(
        self,
        body: Body,
        recipe: SceneRecipe,
        seed: int,
        motion: Motion | None = None,
        backdrops: Backdrops | None = None,
    ) -> None:
        self.body, self.recipe, self.seed = body, recipe, seed
        self.recorded = motion.poses() if motion else None
        self.renderer = RasterRenderer()
        self.textures, self.backdrops = Textures(recipe.image_size), backdrops
        self.faces = body.faces.cpu().numpy()
        self.regions = body.regions
        self.points = BodyPoints().fit_to(body)
        with one_thread():
            self.rest_m = body(_at_rest()).vertices_cam_m[0].numpy()

    def chunk(self, index: int, count: int = CHUNK) -> list[Scene]:
        """The first `count` of the scenes `index * CHUNK` to `(index + 1) * CHUNK - 1`."""
        with one_thread():
            generator = torch.Generator().manual_seed(_seed(self.recipe.name, self.seed, index))
            poses = self._poses(generator)
            rngs = [
                np.random.default_rng([_seed(self.recipe.name, self.seed, index), k]) for k in range(CHUNK)
            ]
            views = [self._view(rng) for rng in rngs]
            cameras = [self._camera(view) for view in views]
            params = self._place(poses, rngs, views, cameras, generator)
            people = self._pose(params)
            scenes = zip(rngs[:count], cameras[:count], people[:count], strict=True)
            return [
                self._scene(rng, camera, person, self._detector_seed(index * CHUNK + k))
                for k, (rng, camera, person) in enumerate(scenes)
            ]

    @torch.no_grad()
    def _pose(self, params: BodyParams) -> list[_Person]:
        posed, points_m = self.body(params), self.points.in_camera(params)
        columns = zip(posed.vertices_cam_m, posed.joints_cam_m, points_m, strict=True)
        return [_Person(params[k], *arrays) for k, arrays in enumerate(columns)]

    def _detector_seed(self, scene: int) -> int:
        """The detector's errors have a stream of their own, so that they change nothing else."""
        return _seed(f"{self.recipe.name}/detector", self.seed, scene)

    def _poses(self, generator: torch.Generator) -> PoseBatch:
        if self.recorded is None:
            return sample_poses(CHUNK, generator, self.recipe.poses)
        rows = torch.randint(len(self.recorded), (CHUNK,), generator=generator)
        recorded = self.recorded
        return PoseBatch(recorded.body_pose[rows], recorded.orient_up[rows], recorded.activity[rows])

    def _view(self, rng: np.random.Generator) -> _View:
        """One of the recipe's cameras, or any in its spans; the person faces in any direction."""
        recipe = self.recipe
        if recipe.cameras:
            camera = recipe.cameras[rng.integers(len(recipe.cameras))]
            heading = rng.uniform(-180, 180)
            return _View(camera.focal_mm, heading, camera.elevation_deg, camera.roll_deg, camera.height_m)
        focal, heading = rng.uniform(*recipe.focal_mm), rng.uniform(-180, 180)
        return _View(focal, heading, rng.uniform(*recipe.elevation_deg), rng.uniform(*recipe.roll_deg))

    def _camera(self, view: _View) -> Camera:
        size = self.recipe.image_size
        return Camera(float(view.focal_mm / 36 * size), size / 2, size / 2, size, size)

    def _place(
        self,
        poses: PoseBatch,
        rngs: list[np.random.Generator],
        views: list[_View],
        cameras: list[Camera],
        generator: torch.Generator,
    ) -> BodyParams:
        """Rotate each body in front of its camera, and place it so that it has the extent that the recipe asks for."""
        rotations = torch.stack([view.rotation() for view in views])
        orient = roma.rotmat_to_rotvec(rotations @ roma.rotvec_to_rotmat(poses.orient_up))
        betas = draw_betas(CHUNK, self.recipe.betas_std, self.recipe.subjects, generator)
        centred = BodyParams(orient, poses.body_pose, betas, torch.zeros(CHUNK, 3))
        joints = self.body.joints(centred)
        transl = torch.stack(
            [self._translation(rng, c, j) for rng, c, j in zip(rngs, cameras, joints, strict=True)]
        )
        transl[:, 1] += torch.tensor([v.drop_m(j + t) for v, j, t in zip(views, joints, transl, strict=True)])
        return BodyParams(orient, poses.body_pose, betas, transl)

    def _translation(
        self, rng: np.random.Generator, camera: Camera, joints_m: Float[Tensor, "24 3"]
    ) -> Float[Tensor, "3"]:
        low, high = joints_m.min(dim=0).values, joints_m.max(dim=0).values
        extent_m = float((high - low)[:2].max()) + 0.2  # skin beyond the joints
        fraction = rng.uniform(*self.recipe.person_fraction)
        side = self.recipe.image_size
        depth_m = camera.focal_px * extent_m / (fraction * side) + float(high[2] - low[2]) / 2
        offset = max(0.0, 1 - fraction) / 2
        if rng.random() < self.recipe.truncation:
            offset = TRUNCATED_OFFSET
        target_px = side * (0.5 + rng.uniform(-offset, offset, 2))
        center = (low + high) / 2
        position = [
            (float(t) - c) * depth_m / camera.focal_px
            for t, c in zip(target_px, (camera.cx_px, camera.cy_px), strict=True)
        ]
        return torch.tensor([*position, depth_m]) - center

    def _scene(self, rng: np.random.Generator, camera: Camera, person: _Person, detector_seed: int) -> Scene:
        size = self.recipe.image_size
        vertices = person.vertices_m.numpy()[None]
        frame = self.renderer.render(vertices, self.faces, camera)
        body_mask = frame.mask[0]
        albedo = dress(rng, self.regions, self.rest_m, REGIONS)[None]
        colours = interpolate(frame, vertices, self.faces, albedo, camera)[0]
        picture = background(rng, self.textures, self.backdrops, self.recipe.clutter)
        light(rng, picture, body_mask, frame.normals_cam[0], colours, self.recipe.lamps)
        keypoints_px = camera.project(person.joints_m)
        hidden = self._occlude(rng, picture, body_mask, keypoints_px)
        pixels, jpeg = photograph(rng, picture, self.recipe)
        box = self._box(rng, camera.project(person.vertices_m), size)
        sample = Sample(
            id=hashlib.sha256(jpeg).hexdigest()[:16],
            image=pixels,
            box=box,
            camera=Camera.estimate(size, size),
            detection=self._detection(camera, person, hidden, box, detector_seed),
        )
        truth = Truth(
            person.params,
            camera,
            person.joints_m,
            keypoints_px,
            _visible(keypoints_px, hidden),
            body_mask & ~hidden,
        )
        return Scene(Labelled(sample, truth), jpeg)

    def _detection(
        self,
        camera: Camera,
        person: _Person,
        hidden: Bool[np.ndarray, "height width"],
        box: Box,
        seed: int,
    ) -> Detection | None:
        """The report of the recipe's simulated detector, if it has one."""
        if self.recipe.detector is None:
            return None
        square = box.square(DETECTOR_CROP)
        half, center = square.side / 2, torch.tensor(square.center)
        points_px, pelvis_m = camera.project(person.points_m), person.points_m[0, 2]
        reported = observe(
            ((points_px - center) / half)[None],
            (person.points_m[:, 2] - pelvis_m)[None],
            _visible(points_px, hidden)[None],
            (camera.focal_px / pelvis_m / half)[None],
            torch.Generator().manual_seed(seed),
            (self.recipe.detector,),
        )
        rows = reported.sigma[0].isfinite().nonzero()[:, 0].tolist()
        columns = (column[0, rows] for column in reported[1:])
        sigma, visibility, depth_m, depth_sigma_m = columns
        names = [POINT_NAMES[row] for row in rows]
        points_px = reported.position[0, rows] * half + center
        return Detection.from_points(names, points_px, sigma * half, visibility, depth_m, depth_sigma_m)

    def _occlude(
        self,
        rng: np.random.Generator,
        picture: Float[np.ndarray, "height width 3"],
        body_mask: Bool[np.ndarray, "height width"],
        keypoints_px: Float[Tensor, "24 2"],
    ) -> Bool[np.ndarray, "height width"]:
        """Paint occluders at joints of the person while enough of the person stays visible. Returns their mask."""
        hidden = np.zeros_like(body_mask)
        if rng.random() >= self.recipe.occluded:
            return hidden
        span_px = float((keypoints_px.max(dim=0).values - keypoints_px.min(dim=0).values).max())
        low, high = self.recipe.occluders
        for _ in range(rng.integers(low, high + 1)):
            about = keypoints_px[rng.integers(len(keypoints_px))].numpy().astype(np.float64)
            extent = rng.uniform(*self.recipe.occluder_fraction) * span_px * 1.5
            mask = shape_mask(rng, picture.shape[0], about + rng.normal(0, 0.1 * span_px, 2), extent)
            if (body_mask & ~(hidden | mask)).sum() < MIN_VISIBLE * body_mask.sum():
                continue
            self.textures.paint(rng, picture, mask)
            hidden |= mask
        return hidden

    def _box(self, rng: np.random.Generator, vertices_px: Float[Tensor, "vertices 2"], size: int) -> Box:
        """A simulated detection: the person's extent inside the image, with random shift and scale."""
        low = vertices_px.min(dim=0).values.clamp(0, size - 1).numpy()
        high = vertices_px.max(dim=0).values.clamp(1, size).numpy()
        side = max(float((high - low).max()), 8.0)
        shift = rng.normal(0, self.recipe.box_jitter, 2) * side
        half = np.maximum(high - low, 8.0) / 2 * np.exp(rng.normal(0, self.recipe.box_jitter))
        x, y = (low + high) / 2 + shift
        return Box(float(x - half[0]), float(y - half[1]), float(x + half[0]), float(y + half[1]))


def _visible(
    points_px: Float[Tensor, "points 2"], hidden: Bool[np.ndarray, "height width"]
) -> Bool[Tensor, "points"]:
    """Whether points are inside the image and not behind an occluder. Self-occlusion does not count."""
    height, width = hidden.shape
    columns, rows = points_px.floor().long().unbind(-1)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    covered = torch.from_numpy(hidden)[rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    return inside & ~covered


def _at_rest() -> BodyParams:
    return BodyParams(torch.zeros(1, 3), torch.zeros(1, 23, 3), torch.zeros(1, NUM_BETAS), torch.zeros(1, 3))


def _seed(name: str, seed: int, chunk: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{name}/{seed}/{chunk}".encode()).digest()[:8], "big") >> 1
