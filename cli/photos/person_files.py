"""One person's pictures and files.

NAME-0-overlay.png    the person's body over the photograph
NAME-0-group.png      the whole group, overlay and side view each, with scores where there are any
NAME-0.npz            the hypotheses (docs/guides/hypotheses-npz.md)
NAME-0.glb            the shown body on its skeleton; NAME-0.obj its mesh alone; NAME-0.bvh its skeleton alone
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image

from agent.types import GroupCritique
from cli.photos.hypotheses_file import write_hypotheses
from cli.photos.people import Person
from hmr.body.export import write_bvh, write_glb, write_obj
from hmr.body.model import Body
from hmr.images.crops import crop_image
from hmr.render.overlay import CLAY, montage, overlay, panel, score_color, side_view, zoom
from hmr.types import BodyParams, Camera, Renderer, Sample

__all__ = ["DEFAULT_FORMATS", "FORMATS", "parse_formats", "save_person"]

FORMATS = ("npz", "obj", "glb", "bvh")
DEFAULT_FORMATS = ("npz", "glb")
PANEL_PX = 224
VIEW_SCALE = 1.35  # of the person's box, so that a misplaced limb stays in the picture
OVERLAY_SIDE = 1600  # pixels; a larger photograph's overlay is drawn smaller
STILL_FPS = 30.0  # of a motion of one frame


def parse_formats(text: str) -> tuple[str, ...]:
    """ "npz,obj" as names, in their usual order. Raises ValueError for an unknown one."""
    asked = {part.strip() for part in text.split(",") if part.strip()}
    if unknown := sorted(asked - set(FORMATS)):
        raise ValueError(f"--save takes any of {', '.join(FORMATS)}, not {', '.join(unknown)}")
    return tuple(name for name in FORMATS if name in asked)


@torch.no_grad()
def save_person(
    stem: Path,
    person: Person,
    body: Body,
    renderer: Renderer,
    critique: GroupCritique | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
) -> list[Path]:
    """Write one person's two pictures and the formats; the shown body is the best-scored one, or hypothesis 0."""
    scores = _scores(person, critique)
    known = [index for index, score in enumerate(scores) if score is not None]
    shown = max(known, key=lambda index: scores[index] or 0.0) if known else 0
    posed = body(person.hypotheses.params)
    vertices, faces = posed.vertices_cam_m.numpy(), body.faces.numpy()
    pelvis = posed.joints_cam_m[:, 0].numpy()
    paths = [_beside(stem, "-overlay.png"), _beside(stem, "-group.png")]
    _save_png(paths[0], _whole_photo(person.sample, vertices[shown], faces, renderer))
    _save_png(paths[1], _group_sheet(person, vertices, pelvis, faces, renderer, critique))
    for name in formats:
        paths.append(_beside(stem, f".{name}"))
        _save_format(name, paths[-1], person, person.hypotheses.params[shown], body)
    return paths


def _scores(person: Person, critique: GroupCritique | None) -> Sequence[float | None]:
    return critique.scores if critique else (None,) * len(person.hypotheses)


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _save_format(name: str, path: Path, person: Person, shown: BodyParams, body: Body) -> None:
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
    picture = Image.fromarray(sample.image)
    picture.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
    height, width = sample.image.shape[:2]
    camera = Camera(sample.camera.focal_px, sample.camera.cx_px, sample.camera.cy_px, width, height)
    frame = renderer.render(vertices_cam_m[None], faces, zoom(camera.resize(*picture.size)))
    return overlay(np.asarray(picture), frame, index=0)


def _group_sheet(
    person: Person,
    vertices: Float[np.ndarray, "group vertices 3"],
    pelvis: Float[np.ndarray, "group 3"],
    faces: Int[np.ndarray, "faces 3"],
    renderer: Renderer,
    critique: GroupCritique | None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Panels in the order of the scores, hypothesis numbers as labels; without a critique, in their own order."""
    scores = _scores(person, critique)
    square = person.sample.box.square(VIEW_SCALE)
    photo = crop_image(person.sample.image, square, PANEL_PX)
    frame = renderer.render(vertices, faces, zoom(person.sample.camera.crop(square, PANEL_PX)))
    sides = side_view(vertices, faces, pelvis, renderer, PANEL_PX)
    order = sorted(range(len(scores)), key=lambda index: _rank_key(scores[index]))
    panels = [
        panel(
            None,
            overlay(photo, frame, index=index, color=score_color(scores[index]) if critique else CLAY),
            sides[index],
            str(index),
        )
        for index in order
    ]
    return montage(panels, columns=4)


def _rank_key(score: float | None) -> float:
    """Best first, the unscored last."""
    return 1.0 if score is None else -score


def _save_png(path: Path, image: UInt8[np.ndarray, "height width 3"]) -> None:
    partial = path.with_suffix(".partial")
    Image.fromarray(image).save(partial, "PNG")
    partial.replace(path)
