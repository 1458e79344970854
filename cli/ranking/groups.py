"""The groups that people rank: found in a folder of hypotheses, read from their files, drawn without any score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cli.photos.hypotheses_file import read_hypotheses
from cli.photos.people import given_people
from cli.photos.run_files import find_photo
from eval.rankings.evaluation import PhotoGroup
from eval.rankings.file import RankedGroup
from hmr.body.model import Body
from hmr.images.crops import crop_image, encode_jpeg
from hmr.images.photographs import load_photo
from hmr.render.overlay import overlay, side_view, zoom
from hmr.types import Renderer

__all__ = ["GroupPictures", "draw_group", "find_groups", "read_group"]

PANEL_PX = 288
VIEW_SCALE = 1.35  # relative to the person's box, so that a misplaced limb stays in the picture
JPEG_QUALITY = 88


@dataclass(frozen=True)
class GroupPictures:
    """JPEG files: the photograph's crop, and each hypothesis over it and from the side."""

    photo: bytes
    hypotheses: tuple[bytes, ...]


def find_groups(folder: Path, photos: Path | None = None) -> list[RankedGroup]:
    """The groups of `NAME-0.npz`, `NAME-1.npz` and so on, as `critique` and `predict` write them, or of `NAME.npz`;
    `find_photo` finds the photograph.

    Raises FileNotFoundError without any file or without a photograph, ValueError for a file of another kind.
    """
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise FileNotFoundError(
            f"{folder} has no .npz file of hypotheses, as `meshcritic critique` writes them"
        )
    return [group for file in files for group in _groups_of(file, photos)]


def _groups_of(file: Path, photos: Path | None) -> list[RankedGroup]:
    photo = find_photo(file, photos)
    people = read_hypotheses(file, load_photo(photo).file_size)
    several = len(people) > 1
    return [
        RankedGroup(f"{file.stem}.{person}" if several else file.stem, photo, file, person, len(hypotheses))
        for person, (_, hypotheses) in enumerate(people)
    ]


def read_group(group: RankedGroup, body: Body) -> PhotoGroup:
    """Raises FileNotFoundError, and ValueError if the files hold another group than the one that was ranked."""
    people = given_people(group.photo, [group.hypotheses], body)
    if group.person >= len(people):
        raise ValueError(
            f"{group.hypotheses} holds {len(people)} person(s), and the rankings name person {group.person}"
        )
    person = people[group.person]
    if len(person.hypotheses) != group.size:
        raise ValueError(
            f"{group.hypotheses} holds {len(person.hypotheses)} hypotheses of person {group.person}, and the rankings "
            f"are of {group.size}"
        )
    return PhotoGroup(group.name, person.sample, person.hypotheses)


@torch.no_grad()
def draw_group(group: PhotoGroup, body: Body, renderer: Renderer) -> GroupPictures:
    """All hypotheses in one colour, because colours elsewhere stand for scores."""
    posed = body(group.hypotheses.params)
    vertices, faces = posed.vertices_cam_m.numpy(), body.faces.numpy()
    square = group.sample.box.square(VIEW_SCALE)
    photo = crop_image(group.sample.image, square, PANEL_PX)
    frame = renderer.render(vertices, faces, zoom(group.hypotheses.camera.crop(square, PANEL_PX)))
    sides = side_view(vertices, faces, posed.joints_cam_m[:, 0].numpy(), renderer, PANEL_PX)
    pairs: Sequence[np.ndarray] = [
        np.concatenate([overlay(photo, frame, index=index), side], axis=1) for index, side in enumerate(sides)
    ]
    jpegs = (encode_jpeg(np.ascontiguousarray(pair), JPEG_QUALITY) for pair in pairs)
    return GroupPictures(encode_jpeg(photo, JPEG_QUALITY), tuple(jpegs))
