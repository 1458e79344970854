"""A synthetic case for testing tools: a standing person with a correct detection.

`standing()` is the truth of the picture. Hypothesis 0 is the good one; a test puts its planted fault last.
"""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.types import Case
from common.reading.array_files import read_arrays
from hmr.body.model import ARRAYS, EMBEDDED_BODY, REGIONS, Body, load_body
from hmr.render.raster import RasterRenderer
from hmr.types import JOINT_NAMES, BodyParams, Box, Camera, Detection, Frame, Hypotheses, Posed, Sample

IMAGE_PX = 256
VIEW_PX = 96


@cache
def larger_body() -> Body:
    """Another model: the embedded body, three tenths larger."""
    return Body(_larger_arrays(), "larger")


def write_larger_body(folder: Path) -> Path:
    """The same model as a user's SMPL file, whose layout it has."""
    np.savez_compressed(folder / "larger.npz", **_larger_arrays())
    return folder / "larger.npz"


def _larger_arrays() -> dict[str, Any]:
    arrays = read_arrays(EMBEDDED_BODY, ARRAYS)
    return arrays | {name: arrays[name] * 1.3 for name in ("v_template", "shapedirs", "posedirs")}


@cache
def body() -> Body:
    return load_body()


def joint(name: str) -> int:
    """The joint's row in `body_pose`."""
    return JOINT_NAMES.index(name) - 1


def standing() -> BodyParams:
    """One upright body with its arms down, 4 m away, facing the camera."""
    body_pose = torch.zeros(23, 3)
    body_pose[joint("left_shoulder"), 2], body_pose[joint("right_shoulder"), 2] = -1.1, 1.1
    facing = torch.tensor([torch.pi, 0.0, 0.0])
    return BodyParams(facing, body_pose, torch.zeros(10), torch.tensor([0.0, -0.1, 4.0]))


def group_of(*members: BodyParams) -> BodyParams:
    """The standing body, two bodies that hardly differ from it, then `members`."""
    noise = torch.randn(2, 23, 3, generator=torch.Generator().manual_seed(0)) * 0.01
    near = [dataclasses.replace(standing(), body_pose=standing().body_pose + step) for step in noise]
    return BodyParams.stack([standing(), *near, *members])


def case_of(params: BodyParams) -> Case:
    """The group before the camera, a photograph of hypothesis 0, and what a perfect detector sees of it."""
    camera = Camera.estimate(IMAGE_PX, IMAGE_PX)
    box = Box(78.0, 30.0, 178.0, 216.0)
    view = camera.crop(box.square(1.2), VIEW_PX)
    posed = body()(params)
    frame = RasterRenderer().render(posed.vertices_cam_m.numpy(), body().faces.numpy(), view)
    detection = Detection.from_points(
        JOINT_NAMES,
        camera.project(posed.joints_cam_m[0]),
        torch.full((24,), 2.0),
        torch.full((24,), 0.9),
        mask=frame.mask[0].astype(np.float32),
        mask_box=box.square(1.2),
        joints_root_m=posed.joints_cam_m[0] - posed.joints_cam_m[0, 0],
    )
    sample = Sample("case", photograph(posed.vertices_cam_m[:1].numpy(), camera), box, camera)
    return Case(sample, Hypotheses(params, camera), body(), posed, view, frame, detection)


def photograph(vertices_cam_m: np.ndarray, camera: Camera) -> np.ndarray:
    """One body before grey, each of its regions in a colour of its own."""
    faces = body().faces.numpy()
    frame = RasterRenderer().render(vertices_cam_m, faces, camera)
    palette = np.random.default_rng(0).integers(0, 256, (len(REGIONS), 3), dtype=np.uint8)
    region_of_face = body().regions[faces[:, 0]]
    image = np.full((camera.height, camera.width, 3), 128, np.uint8)
    image[frame.mask[0]] = palette[region_of_face[frame.face_ids[0][frame.mask[0]]]]
    return image


def permuted(case: Case, order: list[int]) -> Case:
    """The same case with its hypotheses in another order."""
    posed = Posed(case.posed.vertices_cam_m[order], case.posed.joints_cam_m[order])
    frame = Frame(*(getattr(case.frame, field.name)[order] for field in dataclasses.fields(Frame)))
    hypotheses = Hypotheses(case.hypotheses.params[torch.tensor(order)], case.hypotheses.camera)
    return dataclasses.replace(case, posed=posed, frame=frame, hypotheses=hypotheses)
