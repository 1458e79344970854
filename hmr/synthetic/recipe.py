"""Recipes of synthetic scenes: all parameters of `lab`, `wild`, `studio` and `street` images.

`lab` represents labelled data, `wild` photographs. A renderer can label any camera and pose, as in BEDLAM (arXiv
2306.16940) and AGORA (arXiv 2104.14643), so lenses and viewpoints are the same in both. The domain gap is in how a
photograph is taken. It was fixed once with this list and never tuned to a result:

- image: motion blur of hand-held cameras, focus, grain of small sensors, JPEG quality of the web;
- frame: people are truncated and occluded about twice as often, and by more objects;
- detector: boxes have about twice the error, as of a network outside its domain;
- people: `wild` poses have other frequencies (climbing, jumping and lying are rare in studios) and a larger deviation,
  and body shapes have a larger spread.

`studio` and `street` differ in what they show, as the data sets of this field do. `studio` holds what Human3.6M shows
(Ionescu et al., TPAMI 2014), `street` what 3DPW (von Marcard et al., ECCV 2018) and photographs show:

| parameter      | `studio`                                                    | `street`                       |
|----------------|-------------------------------------------------------------|--------------------------------|
| activities     | its 15 scenarios (`hmr.synthetic.activities`)               | all, as often as in `wild`     |
| people         | 5 for training (S1, S5, S6, S7, S8), 2 for tests (S9, S11)  | another one in each image      |
| cameras        | its 4, from the published calibration, means of 7 subjects: | any: 24 to 85 mm, from 30      |
|                | 41 mm, 1.5 to 1.6 m high, 11 to 15 degrees down, rolled by  | degrees below to 45 above,     |
|                | up to 5                                                     | rolled by up to 10             |
| in the frame   | whole, 3 to 7 m away                                        | 15 % cut off                   |
| hidden         | nobody                                                      | 30 %, by one or two objects    |
| image          | as `lab`                                                    | as `wild`                      |

A simulated detector (`hmr.synthetic.detector_noise`) reads both, with the same errors: what differs is the scenes.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, NamedTuple

from hmr.synthetic.poses import Preset

__all__ = ["LAB", "RECIPES", "STREET", "STUDIO", "STUDIO_TEST", "WILD", "FixedCamera", "SceneRecipe"]

Span = tuple[float, float]


class FixedCamera(NamedTuple):
    """A camera of a studio; people stand on its floor and face in any direction."""

    focal_mm: float  # for a 36 mm sensor
    elevation_deg: float
    roll_deg: float
    height_m: float  # above the floor


@dataclass(frozen=True)
class SceneRecipe:
    """Values are uniform within spans; probabilities and counts are per scene."""

    name: str
    version: int  # increase it when a change of the program makes the recipe draw other images
    image_size: int
    poses: Preset  # preset of `hmr.synthetic.poses.sample_poses`; a motion folder replaces it
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
    cameras: tuple[FixedCamera, ...] = ()  # replace the spans of focal length, elevation and roll
    subjects: tuple[int, ...] = ()  # of `hmr.synthetic.subjects`; empty: another person in each scene
    detector: str | None = None  # of `hmr.synthetic.detector_noise`; its report is stored with the sample

    def to_json(self) -> dict[str, Any]:
        """The fields, without optional ones that are not set: what is on disk from before they existed stays valid."""
        values = {item.name: (getattr(self, item.name), item.default) for item in fields(self)}
        return {
            name: value for name, (value, default) in values.items() if default is MISSING or value != default
        }


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

# The fractions are those of people 1.9 m long (skin included) at 4.4 to 7.3 m; those who sit or bend are nearer.
STUDIO = replace(
    LAB,
    name="studio",
    version=3,
    image_size=320,
    poses="studio",
    focal_mm=(41.2, 41.4),
    elevation_deg=(11.0, 15.0),
    roll_deg=(-3.2, 4.6),
    person_fraction=(0.3, 0.5),
    truncation=0.0,
    occluded=0.0,
    clutter=(0, 6),
    cameras=(
        FixedCamera(41.2, 11.0, 1.4, 1.57),
        FixedCamera(41.4, 12.2, 0.4, 1.60),
        FixedCamera(41.4, 12.4, -3.2, 1.50),
        FixedCamera(41.2, 15.0, 4.6, 1.56),
    ),
    subjects=(1, 5, 6, 7, 8),
    detector="wholebody",
)
STUDIO_TEST = replace(STUDIO, subjects=(9, 11))

STREET = replace(
    WILD,
    name="street",
    version=3,
    person_fraction=(0.45, 0.95),
    truncation=0.6,  # a quarter of them lose a joint: 15 % of all
    occluded=0.3,
    occluders=(1, 2),
    detector="wholebody",
)

RECIPES = {recipe.name: recipe for recipe in (LAB, WILD, STUDIO, STREET)}
