"""The open benchmark: splits that can be drawn again, bit for bit, with the same versions of the libraries.

| split                | purpose                                               | ground truth                     |
|----------------------|-------------------------------------------------------|----------------------------------|
| `lab-train`          | pretraining of the broad policy                       | yes                              |
| `lab-calibration`    | the critic's exploration: `explore`, `admit`, `report`| yes, in three disjoint parts     |
| `lab-test`           | accuracy of that policy in its own domain             | yes                              |
| `wild-train`         | its alignment                                         | drawn and discarded              |
| `wild-test`          | comparisons of it                                     | yes, only for evaluation         |
| `studio-train`       | pretraining of the `studio` policy                    | yes                              |
| `studio-calibration` | as `lab-calibration`                                  | yes, in three disjoint parts     |
| `studio-test`        | as `lab-test`; two people who are in no other split   | yes                              |
| `street-align`       | alignment of the `studio` policy                      | drawn and discarded              |
| `street-validation`  | settings of alignment                                 | yes, only for evaluation         |
| `street-test`        | every result of alignment                             | yes, only for evaluation         |

A split is an infinite sequence of scenes of a recipe (`hmr.synthetic.recipe`) and a seed; a smaller size is a prefix of
a larger one. Recipes have a version, and the content hash of the scenes (`hmr.synthetic.store.set_digest`) is printed
with every result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.storage.files import PathLike
from hmr.synthetic.recipe import LAB, RECIPES, STREET, STUDIO, STUDIO_TEST, WILD, SceneRecipe
from hmr.synthetic.store import Progress, make_scenes

__all__ = [
    "GAPS",
    "SPLITS",
    "Gap",
    "Split",
    "calibration_parts",
    "draw_split",
    "gap_of",
    "refuse_seed_of_split",
]


@dataclass(frozen=True)
class Split:
    recipe: SceneRecipe
    seed: int
    scenes: int  # the size used for published results
    truth: bool = True


SPLITS = {
    "lab-train": Split(LAB, 1, 120_000),
    "lab-calibration": Split(LAB, 2, 400),
    "lab-test": Split(LAB, 3, 200),
    "wild-train": Split(WILD, 4, 2_000, truth=False),
    "wild-test": Split(WILD, 5, 200),
    "studio-train": Split(STUDIO, 6, 3_200),
    "studio-calibration": Split(STUDIO, 7, 400),
    "studio-test": Split(STUDIO_TEST, 8, 200),
    "street-align": Split(STREET, 9, 3_200, truth=False),
    "street-validation": Split(STREET, 10, 200),
    "street-test": Split(STREET, 11, 300),
}
TRAINING = ("lab-train", "studio-train")


@dataclass(frozen=True)
class Gap:
    """What the alignment of a base policy uses: labelled splits of its own domain, and images of another one."""

    train: str
    calibration: str
    align: str
    test: str


GAPS = {  # by the name of the base policy (`hmr.policy.checkpoint.BASES`)
    "shipped": Gap("lab-train", "lab-calibration", "wild-train", "wild-test"),
    "studio": Gap("studio-train", "studio-calibration", "street-align", "street-test"),
}
_PARTS = ("explore", "admit", "explore", "report")


def gap_of(base: str) -> Gap:
    """The splits of a base policy. Raises ValueError for an unknown one."""
    if base not in GAPS:
        raise ValueError(f"no base policy is called {base!r}; there are {', '.join(GAPS)}")
    return GAPS[base]


def draw_split(
    name: str,
    root: PathLike,
    scenes: int | None = None,
    *,
    motion: PathLike | None = None,
    backdrops: PathLike | None = None,
    body: PathLike | None = None,
    uses_truth: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """The folder of a split under `root`, drawn if it does not exist.

    Args:
        scenes: number of scenes; None: the size of the split.
        motion: a folder of AMASS npz files, whose poses replace those of the built-in sampler.
        backdrops: a folder of photographs without people, which replace the painted backgrounds.
        body: file of the body model that people are drawn with; None: the embedded one, whose scenes are the benchmark.
        uses_truth: keep the ground truth of `wild-train` or `street-align`, for oracle runs, in a folder with another
            name.

    Raises:
        ValueError: an unknown split, or the folder holds another set.
    """
    if name not in SPLITS:
        raise ValueError(f"no split is called {name!r}; there are {', '.join(SPLITS)}")
    split = SPLITS[name]
    count = scenes or split.scenes
    sources = "".join(f"-{Path(folder).name}" for folder in (motion, backdrops) if folder)
    if body:
        sources += f"-{Path(body).stem}"
    suffix = "-uses-truth" if uses_truth and not split.truth else ""
    folder = Path(root) / f"{name}-{count}{sources}{suffix}"
    return make_scenes(
        folder,
        split.recipe,
        split.seed,
        count,
        motion,
        backdrops,
        body=body,
        keep_truth=split.truth or uses_truth,
        workers=workers,
        progress=progress,
    )


def calibration_parts(count: int) -> dict[str, list[int]]:
    """Rows of each part of the first `count` calibration scenes: half to explore, a quarter to admit rules, a quarter
    to report. Parts are interleaved, so that the part of a scene does not depend on `count`."""
    return {
        part: [row for row in range(count) if _PARTS[row % len(_PARTS)] == part]
        for part in dict.fromkeys(_PARTS)
    }


def refuse_seed_of_split(recipe: str, seed: int) -> None:
    """Raises ValueError if no recipe has this name, or if the seed draws the scenes of a split that is not for
    training."""
    if recipe not in RECIPES:
        raise ValueError(f"no recipe is called {recipe!r}; there are {', '.join(RECIPES)}")
    reserved = {
        (split.recipe.name, split.seed): name for name, split in SPLITS.items() if name not in TRAINING
    }
    if (split := reserved.get((recipe, seed))) is not None:
        taken = ", ".join(str(other) for name, other in sorted(reserved) if name == recipe)
        raise ValueError(
            f"seed {seed} of {recipe} draws the scenes of {split}, which training must not use; "
            f"choose a seed other than {taken}"
        )
