"""Draws the pictures of a report as WebP files: the photograph once, and each body as a transparent layer over it.

A layer of 304 pixels takes 2.6 kB, an overlay with the photograph in it twice as much. The page puts them together, so
that a reader can fade the body out.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from agent.types import GroupCritique
from eval.report.run.data import HeatMap, HypothesisPictures, PersonPictures, ReportCase
from hmr.body.model import Body
from hmr.images.crops import crop_image
from hmr.render.heat_map import heat_view
from hmr.render.overlay import body_layer, side_view, zoom
from hmr.types import JOINT_NAMES, NUM_BETAS, NUM_JOINTS, PARENTS, BodyParams, Hypotheses, Renderer, Sample

__all__ = ["PictureSize", "draw_case", "draw_heat_maps", "draw_person", "picture_size"]

CROP_SCALE = 1.35  # margin about the person, so that a misplaced limb stays in the picture


@dataclass(frozen=True)
class PictureSize:
    """Sides of the square pictures in pixels, and the quality of the WebP files from 0 to 100."""

    overlay: int
    side: int
    quality: int


LARGE = PictureSize(512, 384, 70)  # 12 kB per hypothesis
SMALL = PictureSize(304, 216, 50)  # 3.7 kB: 300 groups of 20 fit into 40 MB (benchmarks/report_size.py)
MANY = 1000  # hypotheses
HEAT_MAP_PX = 420  # height
ARMS_DOWN_RAD = 0.9
NEAR_M = 0.03
POINTS_PER_BONE = 9
WORST_JOINTS = 5
PELVIS, SPINE = JOINT_NAMES.index("pelvis"), JOINT_NAMES.index("spine1")
HIPS = (JOINT_NAMES.index("left_hip"), JOINT_NAMES.index("right_hip"))


def picture_size(hypotheses: int) -> PictureSize:
    """The size for a report with so many hypotheses."""
    return LARGE if hypotheses <= MANY else SMALL


def draw_case(
    title: str,
    sample: Sample,
    hypotheses: Hypotheses,
    critique: GroupCritique,
    *,
    body: Body,
    renderer: Renderer,
    errors_mm: Sequence[float] | None = None,
    size: PictureSize = LARGE,
) -> ReportCase:
    """Draw a case of the report: the photograph's crop, and each hypothesis over it and from the side."""
    photo, pictures = _draw(sample, hypotheses.params, body, renderer, size)
    return ReportCase(title, critique, photo, pictures, None if errors_mm is None else tuple(errors_mm))


def draw_person(
    title: str,
    sample: Sample,
    bodies: BodyParams,
    body: Body,
    renderer: Renderer,
    captions: tuple[str, str] = ("", ""),
    size: PictureSize = LARGE,
) -> PersonPictures:
    """bodies: the one before and the one after, batch shape (2,), in the camera of the sample."""
    photo, (before, after) = _draw(sample, bodies, body, renderer, size)
    return PersonPictures(title, photo, before, after, captions)


@torch.no_grad()
def draw_heat_maps(
    errors_mm: Mapping[str, Float[np.ndarray, "24"]], body: Body, renderer: Renderer
) -> tuple[HeatMap, ...]:
    """By variant, on one scale from the smallest to the largest error of any joint; NaN is grey. Empty without any."""
    known = [values[1:][np.isfinite(values[1:])] for values in errors_mm.values()]
    if not any(map(len, known)):
        return ()
    every = np.concatenate(known)
    limits = (float(every.min()), float(every.max()))
    bodies, faces = _front_and_back(body), body.faces.cpu().numpy()
    weights = _nearness(body)

    def draw(name: str, values: Float[np.ndarray, "24"]) -> HeatMap:
        shown = values.copy()
        shown[PELVIS] = shown[[*HIPS, SPINE]].mean()  # the origin has no error of its own
        views = heat_view(bodies, faces, _of_vertices(weights, shown), limits, renderer, HEAT_MAP_PX)
        ranked = [joint for joint in np.argsort(-values, kind="stable") if np.isfinite(values[joint])]
        worst = [(JOINT_NAMES[row].replace("_", " "), float(values[row])) for row in ranked[:WORST_JOINTS]]
        return HeatMap(name, _webp(np.concatenate(list(views), axis=1), LARGE.quality), limits, worst)

    return tuple(draw(name, values) for name, values in errors_mm.items())


def _of_vertices(
    weights: Float[np.ndarray, "vertices 24"], values: Float[np.ndarray, "24"]
) -> Float[np.ndarray, " vertices"]:
    """The weighted values; NaN where more than half of the weight is of joints without a value."""
    known = np.isfinite(values)
    shares = weights[:, known].sum(axis=1)
    means = weights[:, known] @ values[known] / np.maximum(shares, 1e-9)
    return np.where(shares > 0.5, means, np.nan)


def _nearness(body: Body) -> Float[np.ndarray, "vertices 24"]:
    """How much each vertex has of the value of each joint: values are linear along bones, and a vertex has those of the
    points of bones near it at rest. Sums are 1."""
    shares = torch.linspace(0, 1, POINTS_PER_BONE)[:, None]
    joints = torch.eye(NUM_JOINTS)
    bones = [(joint, parent) for joint, parent in enumerate(PARENTS) if parent >= 0]
    points = torch.cat([shares * joints[joint] + (1 - shares) * joints[parent] for joint, parent in bones])
    squared_m = torch.cdist(body.model.v_template, points @ body.joint_template).square()
    return (torch.softmax(-squared_m / (2 * NEAR_M**2), dim=1) @ points).numpy()


def _front_and_back(body: Body) -> Float[np.ndarray, "2 vertices 3"]:
    """The default body with its arms lowered, upright in the camera frame, facing the camera and facing away."""
    pose = torch.zeros(2, 23, 3)
    for joint, side in ((JOINT_NAMES.index("left_shoulder"), -1), (JOINT_NAMES.index("right_shoulder"), 1)):
        pose[:, joint - 1, 2] = side * ARMS_DOWN_RAD
    facing = torch.tensor([[torch.pi, 0.0, 0.0], [0.0, 0.0, torch.pi]])
    posed = body(BodyParams(facing, pose, torch.zeros(2, NUM_BETAS), torch.zeros(2, 3)))
    return posed.vertices_cam_m.cpu().numpy()


@torch.no_grad()
def _draw(
    sample: Sample, bodies: BodyParams, body: Body, renderer: Renderer, size: PictureSize
) -> tuple[bytes, tuple[HypothesisPictures, ...]]:
    """The photograph, and the pictures of each body."""
    square = sample.box.square(CROP_SCALE)
    photo = crop_image(sample.image, square, size.overlay)
    posed = body(bodies)
    vertices, pelvis = posed.vertices_cam_m.cpu().numpy(), posed.joints_cam_m[:, 0].cpu().numpy()
    faces = body.faces.cpu().numpy()
    frame = renderer.render(vertices, faces, zoom(sample.camera.crop(square, size.overlay)))
    sides = side_view(vertices, faces, pelvis, renderer, size.side)
    pictures = tuple(
        HypothesisPictures(
            _webp(body_layer(frame, size.overlay, index=row), size.quality), _webp(side, size.quality)
        )
        for row, side in enumerate(sides)
    )
    return _webp(photo, size.quality), pictures


def _webp(image: UInt8[np.ndarray, "height width channels"], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()
