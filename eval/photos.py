"""Photographs: find the people, pose them, judge the poses, and leave pictures and files.

OUT/NAME-0-overlay.png    the person's body over the photograph
OUT/NAME-0-group.png      the whole group, overlay and side view each, with scores where there are any
OUT/NAME-0.npz            the hypotheses (docs/hypotheses-npz.md)
OUT/NAME-0.glb            the shown body as a mesh
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import UInt8
from PIL import Image
from trimesh.exchange.gltf import export_glb

from agent.types import GroupCritique
from eval.hypotheses_file import read_hypotheses, write_hypotheses
from hmr.body import Body
from hmr.data.photo import read_photo, sample_of
from hmr.detect import EmbeddedDetector
from hmr.policy import DiffusionPolicy
from hmr.render.overlay import crop_image, montage, overlay, panel, score_color, side_view, zoom
from hmr.types import Box, Camera, Hypotheses, Renderer, Sample
from rl.seeding import derive_generator

__all__ = [
    "NobodyFound",
    "Person",
    "find_people",
    "given_people",
    "parse_box",
    "sample_people",
    "save_person",
]

PANEL_PX = 224
MIN_SURENESS_IN_A_BOX = 0.5  # half of the wild scenes' people are seen better than 0.6, no background is
VIEW_SCALE = 1.35  # of the person's box, so that a misplaced limb stays in the picture


class NobodyFound(ValueError):
    """The detector saw no person surely enough; the message says what to do."""


@dataclass(frozen=True)
class Person:
    """One person of a photograph and the group of hypotheses about them."""

    sample: Sample
    hypotheses: Hypotheses


def parse_box(text: str) -> Box:
    """ "x0,y0,x1,y1" in pixels. Raises ValueError for anything else."""
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"a box is four numbers x0,y0,x1,y1 in pixels, not {text!r}") from error
    return Box(x0, y0, x1, y1)


def find_people(
    path: Path, policy: DiffusionPolicy, boxes: Sequence[Box], anyway: bool = False
) -> tuple[list[Sample], list[str]]:
    """The people in the given boxes, or those that the embedded detector finds; and a sentence for each box refused.

    A box is refused where the encoder, trained on rendered people, cannot read the crop, unless `anyway`. Raises
    NobodyFound where nobody is left, ValueError for a box outside, and what `hmr.data.photo.read_photo` raises.
    """
    image, detector = read_photo(path), EmbeddedDetector(policy)
    _check_inside(path, image, boxes)
    if not boxes:
        found = [sample_of(image, box) for box in detector.find(image)]
        if not found:
            raise NobodyFound(
                f"{path}: the embedded detector, trained on rendered people, sees nobody here surely enough; "
                "say where the person is with --box x0,y0,x1,y1 (pixels)"
            )
        return found, []
    people, refusals = [], []
    for sample in (sample_of(image, box) for box in boxes):
        sureness = detector.sureness(sample)
        if anyway or sureness >= MIN_SURENESS_IN_A_BOX:
            people.append(sample)
        else:
            refusals.append(
                f"{path}: the embedded encoder, trained on rendered people, cannot read a person in "
                f"{_corners(sample.box)} (sureness {sureness:.2f}, needs {MIN_SURENESS_IN_A_BOX}); "
                "crowds, motion blur and heavy occlusion are "
                "beyond it; --anyway shows its guess"
            )
    if not people:
        raise NobodyFound("; ".join(refusals))
    return people, refusals


def _check_inside(path: Path, image: UInt8[np.ndarray, "height width 3"], boxes: Sequence[Box]) -> None:
    height, width = image.shape[:2]
    for box in boxes:
        if box.x1 <= 0 or box.y1 <= 0 or box.x0 >= width or box.y0 >= height:
            raise ValueError(f"{path}: the box {_corners(box)} lies outside the {width} x {height} image")


def _corners(box: Box) -> str:
    return ",".join(f"{corner:g}" for corner in (box.x0, box.y0, box.x1, box.y1))


def sample_people(
    samples: Sequence[Sample], policy: DiffusionPolicy, num_samples: int, seed: int
) -> list[Person]:
    """A group of hypotheses each; the same photograph, box and seed give the same group."""
    people = []
    for sample in samples:
        generator = derive_generator(seed, "photo", sample.id)
        group = policy.sample(policy.encode([sample]), num_samples, generator)[0]
        people.append(Person(sample, Hypotheses(group.params, sample.camera)))
    return people


def given_people(path: Path, file: Path, body: Body) -> list[Person]:
    """The people of a hypotheses file (docs/hypotheses-npz.md) over a photograph; missing boxes are drawn about."""
    image = read_photo(path)
    people = []
    for box, hypotheses in read_hypotheses(file, (image.shape[1], image.shape[0])):
        about = box or _box_about(hypotheses, body)
        sample = sample_of(image, about)
        people.append(Person(Sample(sample.id, image, about, hypotheses.camera), hypotheses))
    return people


def _box_about(hypotheses: Hypotheses, body: Body) -> Box:
    points = hypotheses.camera.project(body.joints(hypotheses.params)).flatten(0, 1)
    low, high = points.quantile(0.02, dim=0), points.quantile(0.98, dim=0)
    return Box(float(low[0]) - 1, float(low[1]) - 1, float(high[0]) + 1, float(high[1]) + 1)


@torch.no_grad()
def save_person(
    stem: Path, person: Person, body: Body, renderer: Renderer, critique: GroupCritique | None = None
) -> list[Path]:
    """Write the four files of one person; the shown body is the best-scored one, or hypothesis 0."""
    scores = critique.scores if critique else (None,) * len(person.hypotheses)
    known = [index for index, score in enumerate(scores) if score is not None]
    shown = max(known, key=lambda index: scores[index] or 0.0) if known else 0
    posed = body(person.hypotheses.params)
    vertices = posed.vertices_cam_m.numpy()
    pelvis = posed.joints_cam_m[:, 0].numpy()
    faces = body.faces.numpy()
    paths = [stem.with_name(stem.name + ending) for ending in ("-overlay.png", "-group.png", ".npz", ".glb")]
    _save_png(paths[0], _whole_photo(person.sample, vertices[shown], faces, renderer))
    _save_png(paths[1], _group_sheet(person, vertices, pelvis, faces, renderer, scores))
    write_hypotheses(paths[2], [(person.sample.box, person.hypotheses)])
    _save_glb(paths[3], vertices[shown], faces)
    return paths


def _whole_photo(
    sample: Sample, vertices: np.ndarray, faces: np.ndarray, renderer: Renderer
) -> UInt8[np.ndarray, "height width 3"]:
    height, width = sample.image.shape[:2]
    camera = Camera(sample.camera.focal_px, sample.camera.cx_px, sample.camera.cy_px, width, height)
    return overlay(sample.image, renderer.render(vertices[None], faces, zoom(camera)), index=0)


def _group_sheet(
    person: Person,
    vertices: np.ndarray,
    pelvis: np.ndarray,
    faces: np.ndarray,
    renderer: Renderer,
    scores: Sequence[float | None],
) -> UInt8[np.ndarray, "height width 3"]:
    """Panels in the order of the scores, hypothesis numbers as labels."""
    square = person.sample.box.square(VIEW_SCALE)
    photo = crop_image(person.sample.image, square, PANEL_PX)
    frame = renderer.render(vertices, faces, zoom(person.sample.camera.crop(square, PANEL_PX)))
    sides = side_view(vertices, faces, pelvis, renderer, PANEL_PX)
    order = sorted(range(len(scores)), key=lambda index: _rank_key(scores[index]))
    panels = [
        panel(
            None,
            overlay(photo, frame, index=index, color=score_color(scores[index])),
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


def _save_glb(path: Path, vertices_cam_m: np.ndarray, faces: np.ndarray) -> None:
    """glTF's world is y up, looking along -z: the camera's y and z change sign."""
    mesh = trimesh.Trimesh(vertices_cam_m * (1, -1, -1), faces, process=False)
    partial = path.with_suffix(".partial")
    partial.write_bytes(export_glb(trimesh.Scene(mesh)))
    partial.replace(path)
