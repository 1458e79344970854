"""Recipes of synthetic scenes: every number that decides how `lab` and `wild` photographs look.

The gap between the two is what separates a studio from the street: in `wild` the camera goes lower, higher and wider,
people reach, climb and lie, things stand before them, frames cut them off, the box comes from a worse detector, and
the picture is noisy and compressed. The numbers were set once from that list and are not tuned to any result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Literal

__all__ = ["LAB", "RECIPES", "WILD", "SceneRecipe"]

Span = tuple[float, float]


@dataclass(frozen=True)
class SceneRecipe:
    """Spans are drawn from uniformly; probabilities and counts are a scene's."""

    name: str
    version: int  # raise it when the same recipe would draw other pictures
    image_size: int
    poses: Literal["lab", "wild"]  # preset of hmr.data.poses.sample_poses, unless a motion folder is given
    betas_std: float
    focal_mm: Span  # 36 mm film
    elevation_deg: Span  # positive: the camera looks down on the person
    roll_deg: Span
    person_fraction: Span  # of the image's side that the person spans
    truncation: float  # probability that the frame cuts the person off
    occluded: float  # probability that anything stands before the person
    occluders: tuple[int, int]
    occluder_fraction: Span  # of the person's box
    clutter: tuple[int, int]  # shapes behind the person
    box_jitter: float  # standard deviation of the detected box, as a fraction of its side
    blur_px: Span
    noise: Span  # standard deviation, of 1
    jpeg_quality: tuple[int, int]

    def digest(self) -> str:
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


LAB = SceneRecipe(
    name="lab",
    version=1,
    image_size=224,
    poses="lab",
    betas_std=1.0,
    focal_mm=(35.0, 60.0),
    elevation_deg=(-5.0, 20.0),
    roll_deg=(-3.0, 3.0),
    person_fraction=(0.55, 0.9),
    truncation=0.1,
    occluded=0.3,
    occluders=(1, 1),
    occluder_fraction=(0.15, 0.4),
    clutter=(0, 8),
    box_jitter=0.03,
    blur_px=(0.4, 0.9),
    noise=(0.0, 0.02),
    jpeg_quality=(85, 97),
)

WILD = SceneRecipe(
    name="wild",
    version=1,
    image_size=224,
    poses="wild",
    betas_std=1.3,
    focal_mm=(24.0, 85.0),
    elevation_deg=(-30.0, 45.0),
    roll_deg=(-10.0, 10.0),
    person_fraction=(0.45, 1.05),
    truncation=0.3,
    occluded=0.7,
    occluders=(1, 3),
    occluder_fraction=(0.15, 0.45),
    clutter=(3, 20),
    box_jitter=0.06,
    blur_px=(0.4, 1.6),
    noise=(0.01, 0.06),
    jpeg_quality=(40, 90),
)

RECIPES = {recipe.name: recipe for recipe in (LAB, WILD)}
