"""Pictures of several people: their bodies over the photograph, and what a detector reported of them as bones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from hmr.body.model import Body
from hmr.render.overlay import PERSON_COLORS, SUPERSAMPLING, overlay, zoom
from hmr.types import POINT_NAMES, BodyParams, Box, Camera, Detection, Frame, Renderer

__all__ = ["DrawnPerson", "draw_people", "draw_skeleton", "reduced"]

_TRUNK = (
    ("left_shoulder", "right_shoulder"),
    ("left_hip", "right_hip"),
    ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"),
)
_LIMBS = (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"), ("ankle", "big_toe"))
BONES = (*_TRUNK, *((f"{side}_{a}", f"{side}_{b}") for side in ("left", "right") for a, b in _LIMBS))
SEEN, HIDDEN = "lime", "orange"  # by the visibility of the less visible end
MIN_VISIBILITY = 0.5
WIDTH = 0.004  # of a bone, in longer sides of the picture
NUMBER_SIZE = 0.03  # height of the number of a person, likewise
MIN_NUMBER_PX = 22


@dataclass(frozen=True)
class DrawnPerson:
    number: int  # written above the person; decides the colour
    params: BodyParams  # batch shape ()
    box: Box  # in the image
    detection: Detection | None = None  # drawn as bones over the body


def reduced(
    image: UInt8[np.ndarray, "height width 3"], camera: Camera, max_side: int
) -> tuple[Image.Image, Camera]:
    """The whole image with at most `max_side` pixels a side, and its camera."""
    picture = Image.fromarray(image)
    picture.thumbnail((max_side, max_side))
    height, width = image.shape[:2]
    camera = Camera(camera.focal_px, camera.cx_px, camera.cy_px, width, height)
    return picture, camera.resize(*picture.size)


@torch.no_grad()
def draw_people(
    image: UInt8[np.ndarray, "height width 3"],
    camera: Camera,
    people: Sequence[DrawnPerson],
    body: Body,
    renderer: Renderer,
    max_side: int,
    supersampling: int = SUPERSAMPLING,
) -> UInt8[np.ndarray, "drawn_height drawn_width 3"]:
    """One body of each person over the image, in a colour of their own; bodies hide what is behind. The picture has at
    most `max_side` pixels a side. supersampling: 1 takes a third of the time and has rough outlines."""
    picture, camera = reduced(image, camera, max_side)
    drawn, scale = np.asarray(picture), picture.width / image.shape[1]
    if not people:
        return drawn
    posed = body(BodyParams.stack([person.params for person in people]))
    frame = _nearest_only(
        renderer.render(posed.vertices_cam_m.numpy(), body.faces.numpy(), zoom(camera, supersampling))
    )
    for index, person in enumerate(people):
        color = PERSON_COLORS[person.number % len(PERSON_COLORS)]
        drawn = overlay(drawn, frame, color, index=index)
    for person in people:
        if person.detection is not None:
            drawn = draw_skeleton(drawn, person.detection, scale)
    return _with_numbers(drawn, people, scale)


def _nearest_only(frame: Frame) -> Frame:
    """Each mesh without the pixels in which another one is nearer."""
    mask = np.asarray(frame.mask)
    nearest = np.where(mask, np.asarray(frame.depth_m), np.inf).argmin(axis=0)
    return dataclasses.replace(frame, mask=mask & (nearest == np.arange(len(mask))[:, None, None]))


def _with_numbers(
    drawn: UInt8[np.ndarray, "height width 3"], people: Sequence[DrawnPerson], scale: float
) -> UInt8[np.ndarray, "height width 3"]:
    numbered = Image.fromarray(drawn)
    draw, size = ImageDraw.Draw(numbered), max(MIN_NUMBER_PX, NUMBER_SIZE * max(numbered.size))
    for person in people:
        above = (scale * (person.box.x0 + person.box.x1) / 2, max(scale * person.box.y0, size))
        draw.text(
            above, str(person.number), "white", font_size=size, anchor="mb", stroke_width=round(size / 10),
            stroke_fill="black",
        )  # fmt: skip
    return np.asarray(numbered)


def draw_skeleton(
    picture: UInt8[np.ndarray, "height width 3"], detection: Detection, scale: float
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with the bones both of whose ends were reported. scale: pixels of the picture per pixel of the
    detection."""
    drawn = Image.fromarray(picture)
    draw, width = ImageDraw.Draw(drawn), max(2, round(WIDTH * max(drawn.size)))
    points = (detection.points_px * scale).tolist()
    for names in BONES:
        first, second = (POINT_NAMES.index(name) for name in names)
        if not (detection.observed[first] and detection.observed[second]):
            continue
        visibility = float(detection.visibility[[first, second]].min())
        line = (*points[first], *points[second])
        draw.line(line, "black", width + 2)
        draw.line(line, SEEN if visibility >= MIN_VISIBILITY else HIDDEN, width)
    return np.asarray(drawn)
