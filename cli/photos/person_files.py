"""Writes the pictures and files of people.

NAME-people.png       hypothesis 0 of everybody over the photograph, with the numbers of the people
NAME-0-overlay.png    one body over the photograph: the hypothesis with the best score, or hypothesis 0 without scores
NAME-0-group.png      all hypotheses, each as overlay and side view, best first
NAME-0.npz            all hypotheses (docs/reference/hypotheses-file.md)
NAME-0.glb            the body of the overlay: mesh and skeleton
NAME-0.obj            its mesh
NAME-0.bvh            its skeleton
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from agent.types import GroupCritique
from cli.photos.drawing import DrawnPerson, draw_people, draw_skeleton, reduced
from cli.photos.hypotheses_file import write_hypotheses
from cli.photos.people import Person
from common.storage.files import atomic_path
from hmr.body.export import write_bvh, write_glb, write_obj
from hmr.body.model import Body
from hmr.images.crops import crop_image
from hmr.render.overlay import (
    CLAY,
    montage,
    overlay,
    panel,
    score_color,
    score_legend,
    side_view,
    zoom,
)
from hmr.types import BodyParams, Box, Renderer, Sample

__all__ = [
    "DEFAULT_FORMATS",
    "FORMATS",
    "PICTURE_CAPTIONS",
    "parse_formats",
    "remove_person",
    "save_format",
    "save_formats",
    "save_people",
    "save_person",
]

FORMATS = ("npz", "obj", "glb", "bvh")
DEFAULT_FORMATS = ("npz", "glb")
PICTURES = ("-overlay.png", "-group.png")  # which `save_person` returns first
PICTURE_CAPTIONS = (
    "The hypothesis with the best score",
    "All hypotheses, as overlay and side view, best first",
)
PANEL_PX = 224
VIEW_SCALE = 1.35  # relative to the person's box, so that a misplaced limb stays in the picture
OPACITY_OUTSIDE = 0.35  # of bodies, beyond the frame of the photograph
OVERLAY_SIDE = 1600  # pixels; overlays of larger photographs are reduced
PNG_LEVEL = 3  # of zlib; its default of 6 takes 1.6 times as long for files that are 7 % smaller
STILL_FPS = 30.0  # frame rate written for a single pose


def parse_formats(text: str) -> tuple[str, ...]:
    """The formats named in a list such as "npz,obj", in the order of FORMATS. Raises ValueError for an unknown one."""
    names = {part.strip() for part in text.split(",") if part.strip()}
    if unknown := sorted(names - set(FORMATS)):
        raise ValueError(f"--save takes any of {', '.join(FORMATS)}, not {', '.join(unknown)}")
    return tuple(name for name in FORMATS if name in names)


@torch.no_grad()
def save_person(
    stem: Path,
    person: Person,
    body: Body,
    renderer: Renderer,
    critique: GroupCritique | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
    with_skeleton: bool = False,
) -> list[Path]:
    """Write one person's two pictures and the files of `formats`; returns all paths, the pictures first.

    with_skeleton: draw what the detector reported of the person over the body.
    """
    scores = _scores(person, critique)
    known = [index for index, score in enumerate(scores) if score is not None]
    shown = max(known, key=lambda index: scores[index] or 0.0) if known else 0
    posed = body(person.hypotheses.params)
    vertices, faces = posed.vertices_cam_m.numpy(), body.faces.numpy()
    pelvis = posed.joints_cam_m[:, 0].numpy()
    paths = [_with_ending(stem, ending) for ending in PICTURES]
    picture = _whole_photo(person.sample, vertices[shown], faces, renderer)
    if with_skeleton and person.detection is not None:
        picture = draw_skeleton(picture, person.detection, picture.shape[1] / person.sample.image.shape[1])
    _save_png(paths[0], picture)
    _save_png(paths[1], _group_sheet(person, vertices, pelvis, faces, renderer, critique))
    return [*paths, *save_formats(stem, person, body, formats, shown)]


def remove_person(stem: Path) -> None:
    """Delete the pictures and files of one person, as far as there are any."""
    for ending in (*PICTURES, *(f".{name}" for name in FORMATS)):
        _with_ending(stem, ending).unlink(missing_ok=True)


def save_formats(
    stem: Path, person: Person, body: Body, formats: Sequence[str], shown: int = 0
) -> list[Path]:
    """Write one person's files of `formats`, those of one body of the hypothesis `shown`; returns their paths."""
    paths = [_with_ending(stem, f".{name}") for name in formats]
    for name, path in zip(formats, paths, strict=True):
        save_format(name, path, person, person.hypotheses.params[shown], body)
    return paths


@torch.no_grad()
def save_people(path: Path, people: Sequence[Person], body: Body, renderer: Renderer) -> None:
    """Hypothesis 0 of each person of one photograph over it, in a colour of their own; bodies hide what is behind."""
    drawn = [
        DrawnPerson(number, person.hypotheses.params[0], person.sample.box)
        for number, person in enumerate(people)
    ]
    sample = people[0].sample
    _save_png(path, draw_people(sample.image, sample.camera, drawn, body, renderer, OVERLAY_SIDE))


def _scores(person: Person, critique: GroupCritique | None) -> Sequence[float | None]:
    return critique.scores if critique else (None,) * len(person.hypotheses)


def _with_ending(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def save_format(name: str, path: Path, person: Person, shown: BodyParams, body: Body) -> None:
    """Write one of FORMATS: all of the person's hypotheses as npz, one body (batch shape ()) in any other."""
    if name == "npz":
        write_hypotheses(path, [(person.box_in_file, person.hypotheses_in_file)])
    elif name == "obj":
        write_obj(path, shown, body)
    elif name == "glb":
        write_glb(path, shown, body)
    else:
        write_bvh(path, BodyParams.stack([shown]), body, STILL_FPS)


def _whole_photo(
    sample: Sample,
    vertices_cam_m: Float[np.ndarray, "vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    renderer: Renderer,
) -> UInt8[np.ndarray, "height width 3"]:
    picture, camera = reduced(sample.image, sample.camera, OVERLAY_SIDE)
    frame = renderer.render(vertices_cam_m[None], faces, zoom(camera))
    return overlay(np.asarray(picture), frame, index=0)


def _group_sheet(
    person: Person,
    vertices: Float[np.ndarray, "group vertices 3"],
    pelvis: Float[np.ndarray, "group 3"],
    faces: Int[np.ndarray, "faces 3"],
    renderer: Renderer,
    critique: GroupCritique | None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Panels labelled with the index of the hypothesis, the best score first, with scores and the legend of their
    colours; without a critique by index."""
    scores = _scores(person, critique)
    square = person.sample.box.square(VIEW_SCALE)
    photo = crop_image(person.sample.image, square, PANEL_PX)
    frame = renderer.render(vertices, faces, zoom(person.sample.camera.crop(square, PANEL_PX)))
    sides = side_view(vertices, faces, pelvis, renderer, PANEL_PX)
    order = sorted(range(len(scores)), key=lambda index: _rank_key(scores[index]))
    inside = _inside_photo(person.sample, square)
    panels = [
        panel(
            None,
            _fade(
                overlay(photo, frame, index=index, color=score_color(scores[index]) if critique else CLAY),
                photo,
                inside,
            ),
            sides[index],
            str(index),
            _score_text(scores[index]) if critique else "",
        )
        for index in order
    ]
    sheet = montage(panels, columns=4)
    return np.concatenate([sheet, score_legend(sheet.shape[1])]) if critique else sheet


def _inside_photo(sample: Sample, square: Box) -> Bool[np.ndarray, "panel panel"]:
    """Which pixels of a panel lie in the photograph."""
    height, width = sample.image.shape[:2]
    centers = (np.arange(PANEL_PX) + 0.5) / PANEL_PX * square.side
    columns, rows = square.x0 + centers, square.y0 + centers
    return ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]


def _fade(
    drawn: UInt8[np.ndarray, "panel panel 3"],
    photo: UInt8[np.ndarray, "panel panel 3"],
    inside: Bool[np.ndarray, "panel panel"],
) -> UInt8[np.ndarray, "panel panel 3"]:
    """Draw limbs beyond the frame of the photograph faintly, because nothing is seen of them."""
    faint = (OPACITY_OUTSIDE * drawn + (1 - OPACITY_OUTSIDE) * photo).astype(np.uint8)
    return np.where(inside[..., None], drawn, faint)


def _score_text(score: float | None) -> str:
    return "no score" if score is None else f"score {score:.1f}"


def _rank_key(score: float | None) -> float:
    """Best score first, hypotheses without score last."""
    return 1.0 if score is None else -score


def _save_png(path: Path, image: UInt8[np.ndarray, "height width 3"]) -> None:
    with atomic_path(path) as partial:
        Image.fromarray(image).save(partial, "PNG", compress_level=PNG_LEVEL)
