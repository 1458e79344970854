"""Rendered scenes of two people with exact truth, and faults of their arrangement (`benchmarks.critic.arrangements`).

Two posed bodies of the project's samplers stand on one floor before one camera, by the seed and the pair's number. The
project's rasteriser renders both, so masks and order in depth are exact. A fault changes how the posed bodies are
placed; poses stay, and so do projections where the fault moves bodies along their viewing rays and scales them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float, UInt8
from scipy.spatial import KDTree
from torch import Tensor

from common.seeding import derive_generator, derive_seed
from hmr.body.model import REGIONS, Body
from hmr.render.raster import RasterRenderer, interpolate
from hmr.synthetic.painting import Textures, background, dress, light, photograph
from hmr.synthetic.poses import sample_poses
from hmr.synthetic.recipe import WILD
from hmr.synthetic.scenes import FLIP
from hmr.synthetic.subjects import draw_betas
from hmr.types import NUM_BETAS, NUM_JOINTS, BodyParams, Box, Camera, Frame, Posed

__all__ = ["FAULTS", "Fault", "PairScene", "PairScenes"]

IMAGE_PX = 320
FOCAL_MM = (28.0, 70.0)
ELEVATION_DEG, ROLL_SD_DEG, CAMERA_HEIGHT_M = (-5.0, 25.0), 2.0, (1.0, 2.2)
FRACTION = (0.45, 0.8)  # extent of the first person, of the image's side
DEPTH_RATIO = (1.0, 1.7)  # of the second person's distance to the first one's
OFFSET = 0.35  # of the second person from the middle, of the image's side, at most
MIN_INSIDE, MIN_VISIBLE = 0.9, 0.35  # of a person's vertices in the image; of their pixels not hidden
MIN_GAP_M = 0.03  # between the skins of two people
MIN_SWAP = 1.1  # ratio of distances below which exchanging them changes nothing


@dataclass(frozen=True)
class PairScene:
    """Two people before one camera; all arrays have one row per person."""

    name: str
    camera: Camera
    params: BodyParams  # batch shape (2,)
    posed: Posed
    up: Float[Tensor, "3"]  # against gravity, in the camera's frame
    frame: Frame  # each person alone
    visible: Bool[np.ndarray, "2 height width"]  # pixels not hidden by the other
    boxes: tuple[Box, Box]  # around the visible pixels

    @property
    def overlap(self) -> bool:
        """Whether one hides a part of the other."""
        return bool(self.frame.mask.all(axis=0).any())


class PairScenes:
    """Draws the scenes of one seed."""

    def __init__(self, body: Body, seed: int) -> None:
        self.body, self.seed, self.renderer = body, seed, RasterRenderer(threads=1)
        self.faces = body.faces.numpy()

    def draw(self, index: int) -> PairScene:
        """The same index gives the same scene; draws that fail the limits above are repeated."""
        generator = derive_generator("people", self.seed, index)
        rng = np.random.default_rng(derive_seed("people", self.seed, index))
        while True:
            scene = self._try(f"{self.seed}/{index}", rng, generator)
            if scene is not None:
                return scene

    @torch.no_grad()
    def _try(self, name: str, rng: np.random.Generator, generator: torch.Generator) -> PairScene | None:
        focal_px = float(rng.uniform(*FOCAL_MM) / 36 * IMAGE_PX)
        camera = Camera(focal_px, IMAGE_PX / 2, IMAGE_PX / 2, IMAGE_PX, IMAGE_PX)
        rotation = _camera_rotation(rng)
        params = self._stand(rng, generator, camera, rotation)
        posed = self.body(params)
        points_px = camera.project(posed.vertices_cam_m)
        inside = ((points_px > 0) & (points_px < IMAGE_PX)).all(dim=-1).float().mean(dim=1)
        if bool((inside < MIN_INSIDE).any()) or float(posed.vertices_cam_m[..., 2].min()) < 0.5:
            return None
        if _gap_m(posed) < MIN_GAP_M:
            return None
        frame = self.renderer.render(posed.vertices_cam_m.numpy(), self.faces, camera)
        visible = _visible(frame)
        if (visible.sum(axis=(1, 2)) < MIN_VISIBLE * frame.mask.sum(axis=(1, 2))).any():
            return None
        boxes = (_box(visible[0]), _box(visible[1]))
        return PairScene(name, camera, params, posed, rotation[:, 1], frame, visible, boxes)

    def _stand(
        self,
        rng: np.random.Generator,
        generator: torch.Generator,
        camera: Camera,
        rotation: Float[Tensor, "3 3"],
    ) -> BodyParams:
        """Two people on the floor y = 0 of a world whose camera is above the origin."""
        poses = sample_poses(2, generator, "wild")
        heading = torch.tensor(rng.uniform(-math.pi, math.pi, (2, 1)), dtype=torch.float32)
        orient = roma.rotvec_composition([heading * torch.tensor([0.0, 1.0, 0.0]), poses.orient_up])
        betas = draw_betas(2, 1.0, (), generator)
        world = BodyParams(orient, poses.body_pose, betas, torch.zeros(2, 3))
        extent = self.body(world).vertices_cam_m
        height_m = float((extent[0].amax(dim=0) - extent[0].amin(dim=0)).max())
        near_m = camera.focal_px * height_m / (rng.uniform(*FRACTION) * IMAGE_PX)
        depths_m = near_m * np.array([1.0, rng.uniform(*DEPTH_RATIO)])
        aside = np.array([rng.uniform(-0.1, 0.1), rng.uniform(-OFFSET, OFFSET)]) * IMAGE_PX
        feet = torch.tensor(
            np.stack([aside * depths_m / camera.focal_px, np.zeros(2), -depths_m], axis=1),
            dtype=torch.float32,
        )
        feet[:, 1] = -extent[..., 1].amin(dim=1)
        feet[:, 1] -= float(rng.uniform(*CAMERA_HEIGHT_M))
        pelvis = self.body.rest_joints(betas)[:, 0]
        turned = roma.rotmat_to_rotvec(rotation @ roma.rotvec_to_rotmat(orient))
        transl = (pelvis + feet) @ rotation.T - pelvis
        return BodyParams(turned, poses.body_pose, betas, transl)

    def picture(self, scene: PairScene) -> UInt8[np.ndarray, "height width 3"]:
        """A photograph of the scene, painted as the scenes of `hmr.synthetic.scenes` are."""
        rng = np.random.default_rng(derive_seed("people/picture", scene.name))
        picture = background(rng, Textures(IMAGE_PX), None, WILD.clutter)
        rest = BodyParams(
            *(torch.zeros(1, *size) for size in ((3,), (NUM_JOINTS - 1, 3), (NUM_BETAS,), (3,)))
        )
        rest_m = self.body(rest).vertices_cam_m[0].numpy()
        vertices = scene.posed.vertices_cam_m.numpy()
        albedo = np.stack([dress(rng, self.body.regions, rest_m, REGIONS) for _ in range(2)])
        colours = interpolate(scene.frame, vertices, self.faces, albedo, scene.camera)
        for row in range(2):
            normals = scene.frame.normals_cam[row]
            light(rng, picture, scene.visible[row], normals, colours[row], WILD.lamps)
        return photograph(rng, picture, replace(WILD, motion_blur=0.0))[0]


def _camera_rotation(rng: np.random.Generator) -> Float[Tensor, "3 3"]:
    """From the y-up world to the camera."""
    angles = np.deg2rad([rng.uniform(*ELEVATION_DEG), rng.normal(0, ROLL_SD_DEG)])
    about_x = roma.rotvec_to_rotmat(torch.tensor([angles[0], 0.0, 0.0], dtype=torch.float32))
    about_z = roma.rotvec_to_rotmat(torch.tensor([0.0, 0.0, angles[1]], dtype=torch.float32))
    return about_z @ FLIP @ about_x


def _gap_m(posed: Posed) -> float:
    """The least distance of the two skins."""
    first, second = posed.vertices_cam_m.numpy()
    return float(KDTree(first).query(second)[0].min())


def _visible(frame: Frame) -> Bool[np.ndarray, "2 height width"]:
    depth_m = np.where(frame.mask, frame.depth_m, np.inf)
    return frame.mask & (depth_m <= depth_m.min(axis=0))


def _box(mask: Bool[np.ndarray, "height width"]) -> Box:
    rows, columns = np.nonzero(mask)
    return Box(float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))


# A fault: the bodies of a scene placed wrongly; None where it would not change the scene.
Fault = Callable[[Posed, Float[Tensor, "3"], np.random.Generator], Posed | None]


def _scaled(posed: Posed, factors: Float[np.ndarray, "2"]) -> Posed:
    """Each body moved along its viewing rays and scaled with its distance: the projection stays."""
    factor = torch.tensor(factors, dtype=torch.float32)[:, None, None]
    return Posed(posed.vertices_cam_m * factor, posed.joints_cam_m * factor)


def _shifted(posed: Posed, shifts_m: Float[Tensor, "2 3"]) -> Posed:
    return Posed(posed.vertices_cam_m + shifts_m[:, None], posed.joints_cam_m + shifts_m[:, None])


def _distances_m(posed: Posed) -> Float[np.ndarray, "2"]:
    return posed.joints_cam_m[:, 0].norm(dim=-1).numpy().astype(np.float64)


def swapped(posed: Posed, up: Float[Tensor, "3"], rng: np.random.Generator) -> Posed | None:
    """Distances exchanged, sizes with them: projections stay."""
    near, far = _distances_m(posed)
    if max(near / far, far / near) < MIN_SWAP:
        return None
    return _scaled(posed, np.array([far / near, near / far]))


def swapped_same_heights(posed: Posed, up: Float[Tensor, "3"], rng: np.random.Generator) -> Posed | None:
    """Distances exchanged, each body along the ray through its pelvis with the size that it has."""
    near, far = _distances_m(posed)
    if max(near / far, far / near) < MIN_SWAP:
        return None
    factor = torch.tensor([far / near, near / far], dtype=torch.float32)[:, None]
    return _shifted(posed, posed.joints_cam_m[:, 0] * (factor - 1))


def one_rescaled(posed: Posed, up: Float[Tensor, "3"], rng: np.random.Generator) -> Posed:
    """One of them 20 to 40 % nearer or farther, with the size: projections stay."""
    factors = np.ones(2)
    factors[rng.integers(2)] = rng.uniform(1.2, 1.4) ** rng.choice([-1, 1])
    return _scaled(posed, factors)


def into_the_other(posed: Posed, up: Float[Tensor, "3"], rng: np.random.Generator) -> Posed | None:
    """The second moved along the floor until the pelvises are 5 to 25 cm apart in plan; None if the skins still do
    not meet."""
    between = posed.joints_cam_m[0, 0] - posed.joints_cam_m[1, 0]
    angle, distance_m = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.25)
    aside = torch.nn.functional.normalize(torch.linalg.cross(up, up.new_tensor([0.0, 0.0, 1.0])), dim=-1)
    ahead = torch.linalg.cross(up, aside)
    offset = distance_m * (math.cos(angle) * aside + math.sin(angle) * ahead)
    moved = _shifted(posed, torch.stack([torch.zeros(3), between - (between @ up) * up + offset]))
    return moved if _gap_m(moved) < 0.01 else None


def floating(posed: Posed, up: Float[Tensor, "3"], rng: np.random.Generator) -> Posed:
    """One of them 0.3 to 0.8 m higher."""
    shifts_m = torch.zeros(2, 3)
    shifts_m[rng.integers(2)] = float(rng.uniform(0.3, 0.8)) * up
    return _shifted(posed, shifts_m)


FAULTS: dict[str, Fault] = {
    "swapped": swapped,
    "swapped, heights kept": swapped_same_heights,
    "one rescaled": one_rescaled,
    "one into the other": into_the_other,
    "one floating": floating,
}
