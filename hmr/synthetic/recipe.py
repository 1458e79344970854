"""Recipes of synthetic scenes: all parameters of `lab` and `wild` images.

`lab` represents labelled data, `wild` photographs. A renderer can label any camera and pose, as in BEDLAM (arXiv
2306.16940) and AGORA (arXiv 2104.14643), so lenses and viewpoints are the same in both. The domain gap is in how a
photograph is taken. It was fixed once with this list and never tuned to a result:

- image: motion blur of hand-held cameras, focus, grain of small sensors, JPEG quality of the web;
- frame: people are truncated and occluded about twice as often, and by more objects;
- detector: boxes have about twice the error, as of a network outside its domain;
- people: `wild` poses have other frequencies (climbing, jumping and lying are rare in studios) and a larger deviation,
  and body shapes have a larger spread.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["LAB", "RECIPES", "WILD", "SceneRecipe"]

Span = tuple[float, float]


@dataclass(frozen=True)
class SceneRecipe:
    """Values are uniform within spans; probabilities and counts are per scene."""

    name: str
    version: int  # increase it when a change of the program makes the recipe draw other images
    image_size: int
    poses: Literal["lab", "wild"]  # preset of `hmr.synthetic.poses.sample_poses`; a motion folder replaces it
    betas_std: float
    focal_mm: Span  # for a 36 mm sensor
    elevation_deg: Span  # positive: the camera looks down on the person
    roll_deg: Span
    person_fraction: Span  # extent of the person, as a fraction of the image's side
    truncation: float  # probability that the frame truncates the person
    occluded: float  # probability of at least one occluder
    occluders: tuple[int, int]
    occluder_fraction: Span  # extent, as a fraction of the person's box
    clutter: tuple[int, int]  # number of shapes behind the person
    box_jitter: float  # standard deviation of the detected box, as a fraction of its side
    lamps: tuple[int, int]
    motion_blur: float  # probability
    motion_px: Span
    blur_px: Span  # standard deviation, of the lens
    noise: Span  # standard deviation; the largest value of a pixel is 1
    jpeg_quality: tuple[int, int]


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

WILD = replace(
    LAB,
    name="wild",
    poses="wild",
    betas_std=1.3,
    person_fraction=(0.45, 1.05),
    truncation=0.3,
    occluded=0.7,
    occluders=(1, 3),
    occluder_fraction=(0.15, 0.45),
    clutter=(3, 20),
    box_jitter=0.06,
    motion_blur=0.3,
    motion_px=(2.0, 9.0),
    blur_px=(0.4, 1.6),
    noise=(0.01, 0.06),
    jpeg_quality=(40, 90),
)

RECIPES = {recipe.name: recipe for recipe in (LAB, WILD)}
