"""A photograph with two people and two sources of bodies, as the page shows it."""

from __future__ import annotations

import numpy as np
import torch

from cli.photos.people import Person
from cli.viewer.contents import ShownPerson, ShownPhoto, Source
from hmr.images.photographs import photo_of, sample_of
from hmr.types import BodyParams, Box, Camera, Detection, Hypotheses

GROUP, STEPS = 3, 2
SCORES = (20.0, 90.0, None)
CAMERA = Camera(300.0, 110.0, 70.0, 200, 160)  # with a principal point off the centre
BOXES = (Box(30.0, 20.0, 90.0, 140.0), Box(110.0, 30.0, 160.0, 130.0))


def group(seed: int) -> BodyParams:
    """Upright bodies in front of the camera, further right for another seed."""
    generator = torch.Generator().manual_seed(seed)
    pose = 0.2 * torch.randn(GROUP, 23, 3, generator=generator)
    transl = torch.tensor([0.6 * (seed % 2) - 0.4, 0.2, 4.0 + 0.3 * seed]).repeat(GROUP, 1)
    return BodyParams(
        torch.tensor([torch.pi, 0.0, 0.0]).repeat(GROUP, 1), pose, torch.zeros(GROUP, 10), transl
    )


def make_shown(sources: int = 2, scores: tuple[float | None, ...] = SCORES) -> ShownPhoto:
    """Only the first person has scores; the detector saw the first five points of everybody."""
    pixels = np.random.default_rng(0).integers(0, 255, (CAMERA.height, CAMERA.width, 3), dtype=np.uint8)
    photo = photo_of(pixels)
    people = []
    for number, box in enumerate(BOXES):
        groups = [
            Source(f"policy {one}", (group(number + 4), group(number + 2 * one))) for one in range(sources)
        ]
        sample, final = sample_of(pixels, box, CAMERA), Hypotheses(groups[0].steps[-1], CAMERA)
        person = Person(sample, final, photo, detection(box))
        known = scores if number == 0 else ()
        comments = tuple(f"comment {index}" for index in range(len(known)))
        people.append(ShownPerson(f"photo-{number}", person, tuple(groups), known, comments))
    return ShownPhoto(photo, tuple(people))


def detection(box: Box) -> Detection:
    names = ("nose", "left_knee", "right_knee", "left_wrist", "pelvis")
    points = torch.linspace(0.1, 0.9, 10).reshape(5, 2) * torch.tensor([box.x1, box.y1])
    visibility = torch.tensor([1.0, 0.9, 0.2, 0.8, 0.7])  # the right knee is hidden
    return Detection.from_points(names, points, torch.ones(5), visibility)
