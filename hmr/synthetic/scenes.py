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
from hmr.render.raster import RasterRenderer, interpolate
from hmr.synthetic.amass import Motion
from hmr.synthetic.painting import Backdrops, Textures, background, dress, light, photograph, shape_mask
from hmr.synthetic.poses import PoseBatch, sample_poses
from hmr.synthetic.recipe import SceneRecipe
from hmr.types import NUM_BETAS, BodyParams, Box, Camera, Labelled, Sample, Truth

__all__ = ["CHUNK", "Scene", "SceneMaker"]

CHUNK = 32  # scenes posed together
TRUNCATED_OFFSET = 0.3  # largest offset of a truncated person from the centre, as a fraction of the side
MIN_VISIBLE = 0.35  # of the person's pixels in the frame; an occluder that would hide more is left out
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # y-up world facing +z -> camera frame, facing the lens


@dataclass(frozen=True)
class Scene:
    labelled: Labelled
    jpeg: bytes  # the file that `labelled.sample.image` was read from


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
            cameras = [self._camera(rng) for rng in rngs]
            params = self._place(poses, rngs, cameras, generator)
            with torch.no_grad():
                posed = self.body(params)
            return [
                self._scene(rng, camera, params[k], posed.vertices_cam_m[k], posed.joints_cam_m[k])
                for k, (rng, camera) in enumerate(zip(rngs[:count], cameras[:count], strict=True))
            ]

    def _poses(self, generator: torch.Generator) -> PoseBatch:
        if self.recorded is None:
            return sample_poses(CHUNK, generator, self.recipe.poses)
        rows = torch.randint(len(self.recorded), (CHUNK,), generator=generator)
        recorded = self.recorded
        return PoseBatch(recorded.body_pose[rows], recorded.orient_up[rows], recorded.activity[rows])

    def _camera(self, rng: np.random.Generator) -> Camera:
        size = self.recipe.image_size
        focal_px = rng.uniform(*self.recipe.focal_mm) / 36 * size
        return Camera(float(focal_px), size / 2, size / 2, size, size)

    def _place(
        self,
        poses: PoseBatch,
        rngs: list[np.random.Generator],
        cameras: list[Camera],
        generator: torch.Generator,
    ) -> BodyParams:
        """Rotate each body in front of its camera, and place it so that it has the extent that the recipe asks for."""
        rotations = torch.stack([self._view(rng) for rng in rngs])
        orient = roma.rotmat_to_rotvec(rotations @ roma.rotvec_to_rotmat(poses.orient_up))
        betas = torch.randn(CHUNK, NUM_BETAS, generator=generator) * self.recipe.betas_std
        betas = betas.clamp(-3, 3)
        centred = BodyParams(orient, poses.body_pose, betas, torch.zeros(CHUNK, 3))
        joints = self.body.joints(centred)
        transl = torch.stack(
            [self._translation(rng, c, j) for rng, c, j in zip(rngs, cameras, joints, strict=True)]
        )
        return BodyParams(orient, poses.body_pose, betas, transl)

    def _view(self, rng: np.random.Generator) -> Float[Tensor, "3 3"]:
        """World-to-camera rotation: a random heading, with the recipe's elevation and roll."""
        angles = (
            rng.uniform(-180, 180),
            rng.uniform(*self.recipe.elevation_deg),
            rng.uniform(*self.recipe.roll_deg),
        )
        heading, elevation, roll = (torch.tensor(np.deg2rad(angle), dtype=torch.float32) for angle in angles)
        zero = torch.zeros(())
        about_y = roma.rotvec_to_rotmat(torch.stack([zero, heading, zero]))
        about_x = roma.rotvec_to_rotmat(torch.stack([elevation, zero, zero]))
        about_z = roma.rotvec_to_rotmat(torch.stack([zero, zero, roll]))
        return about_z @ FLIP @ about_x @ about_y

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

    def _scene(
        self,
        rng: np.random.Generator,
        camera: Camera,
        params: BodyParams,
        vertices_cam_m: Float[Tensor, "vertices 3"],
        joints_cam_m: Float[Tensor, "24 3"],
    ) -> Scene:
        size = self.recipe.image_size
        vertices = vertices_cam_m.numpy()[None]
        frame = self.renderer.render(vertices, self.faces, camera)
        body_mask = frame.mask[0]
        albedo = dress(rng, self.regions, self.rest_m, REGIONS)[None]
        colours = interpolate(frame, vertices, self.faces, albedo, camera)[0]
        picture = background(rng, self.textures, self.backdrops, self.recipe.clutter)
        light(rng, picture, body_mask, frame.normals_cam[0], colours, self.recipe.lamps)
        keypoints_px = camera.project(joints_cam_m)
        hidden = self._occlude(rng, picture, body_mask, keypoints_px)
        pixels, jpeg = photograph(rng, picture, self.recipe)
        sample = Sample(
            id=hashlib.sha256(jpeg).hexdigest()[:16],
            image=pixels,
            box=self._box(rng, camera.project(vertices_cam_m), size),
            camera=Camera.estimate(size, size),
        )
        truth = Truth(
            params, camera, joints_cam_m, keypoints_px, _visible(keypoints_px, hidden), body_mask & ~hidden
        )
        return Scene(Labelled(sample, truth), jpeg)

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
    keypoints_px: Float[Tensor, "24 2"], hidden: Bool[np.ndarray, "height width"]
) -> Bool[Tensor, "24"]:
    """Whether joints are inside the image and not behind an occluder. Self-occlusion does not count."""
    height, width = hidden.shape
    columns, rows = keypoints_px.floor().long().unbind(-1)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    covered = torch.from_numpy(hidden)[rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    return inside & ~covered


def _at_rest() -> BodyParams:
    return BodyParams(torch.zeros(1, 3), torch.zeros(1, 23, 3), torch.zeros(1, NUM_BETAS), torch.zeros(1, 3))


def _seed(name: str, seed: int, chunk: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{name}/{seed}/{chunk}".encode()).digest()[:8], "big") >> 1
