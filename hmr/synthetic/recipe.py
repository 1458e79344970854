"""Recipes of synthetic scenes: every number that decides how `lab` and `wild` photographs look.

`lab` stands for all that can be labelled, `wild` for photographs. A renderer labels any camera and any pose for
nothing, as BEDLAM (arXiv 2306.16940) and AGORA (arXiv 2104.14643) do, so lenses and viewpoints are the same in both.
What tells a photograph from a rendering is how it was taken, and that is the gap, fixed once from this list and never
tuned to a result:

- the picture: hand-held motion blur, focus, grain of small sensors, JPEG as the web keeps it;
- the frame: people are cut off and stand behind things about twice as often, and behind more of them;
- the detector: a box from a network that is itself out of its domain moves about twice as far;
- people: `wild` poses have other frequencies (climbing, jumping, lying are rare in studios) and stray farther, and
  body shapes spread wider.
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
    poses: Literal[
        "lab", "wild"
    ]  # preset of hmr.synthetic.poses.sample_poses, unless a motion folder is given
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
    lamps: tuple[int, int]
    motion_blur: float  # probability that the shutter was too slow
    motion_px: Span
    blur_px: Span  # standard deviation, of the lens
    noise: Span  # standard deviation, of 1
    jpeg_quality: tuple[int, int]

    def digest(self) -> str:
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


LAB = SceneRecipe(
    name="lab",
    version=2,
    image_size=224,
    poses="lab",
    betas_std=1.0,
    focal_mm=(24.0, 85.0),
    elevation_deg=(-30.0, 45.0),
    roll_deg=(-10.0, 10.0),
    person_fraction=(0.5, 1.0),
    truncation=0.15,
    occluded=0.4,
    occluders=(1, 2),
    occluder_fraction=(0.15, 0.4),
    clutter=(0, 12),
    box_jitter=0.03,
    lamps=(1, 3),
    motion_blur=0.0,
    motion_px=(0.0, 0.0),
    blur_px=(0.4, 1.0),
    noise=(0.0, 0.02),
    jpeg_quality=(80, 97),
)

WILD = SceneRecipe(
    name="wild",
    version=2,
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
    lamps=(1, 3),
    motion_blur=0.3,
    motion_px=(2.0, 9.0),
    blur_px=(0.4, 1.6),
    noise=(0.01, 0.06),
    jpeg_quality=(40, 90),
)

RECIPES = {recipe.name: recipe for recipe in (LAB, WILD)}
