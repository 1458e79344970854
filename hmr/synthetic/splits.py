"""The open benchmark: splits that anyone can draw again, to the bit, on the same versions.

| split             | what it is for                                        | truth                               |
|-------------------|-------------------------------------------------------|-------------------------------------|
| `lab-train`       | pretraining                                           | yes                                 |
| `lab-calibration` | the critic's exploration: `explore`, `admit`, `report`| yes, in three parts that never meet |
| `lab-test`        | how well the policy does at home                      | yes                                 |
| `wild-train`      | alignment                                             | drawn and thrown away               |
| `wild-test`       | every figure of a comparison                          | yes, for evaluation alone           |

A split is an endless sequence of scenes (`hmr.synthetic.recipe`, a seed of its own); a smaller size is the beginning of a
larger one. The recipes carry a version, and the content hash of what was drawn (`hmr.synthetic.store.set_digest`) is printed
with every figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hmr.synthetic.recipe import LAB, WILD, SceneRecipe
from hmr.synthetic.store import Progress, make_scenes

__all__ = ["SPLITS", "Split", "calibration_parts", "draw_split"]


@dataclass(frozen=True)
class Split:
    recipe: SceneRecipe
    seed: int
    scenes: int  # the size that figures are quoted for
    truth: bool = True


SPLITS = {
    "lab-train": Split(LAB, 1, 120_000),
    "lab-calibration": Split(LAB, 2, 400),
    "lab-test": Split(LAB, 3, 200),
    "wild-train": Split(WILD, 4, 2_000, truth=False),
    "wild-test": Split(WILD, 5, 200),
}
_TURNS = ("explore", "admit", "explore", "report")


def draw_split(
    name: str,
    root: Path,
    scenes: int | None = None,
    *,
    motion: Path | None = None,
    backdrops: Path | None = None,
    uses_truth: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """The folder of a split under `root`, drawn unless it is there already.

    Args:
        scenes: how many; the split's own size when None.
        motion: a folder of AMASS npz files to pose the bodies from, in place of the built-in sampler.
        backdrops: a folder of photographs without people to put behind them, in place of painted walls.
        uses_truth: keep the truth of `wild-train`, for an oracle's run that says so in its name.

    Raises:
        ValueError: an unknown split, or the folder holds another set.
    """
    if name not in SPLITS:
        raise ValueError(f"no split is called {name!r}; there are {', '.join(SPLITS)}")
    split = SPLITS[name]
    count = scenes or split.scenes
    sources = "".join(f"-{folder.name}" for folder in (motion, backdrops) if folder)
    stamp = "-uses-truth" if uses_truth and not split.truth else ""
    folder = root / f"{name}-{count}{sources}{stamp}"
    return make_scenes(
        folder,
        split.recipe,
        split.seed,
        count,
        motion,
        backdrops,
        keep_truth=split.truth or uses_truth,
        workers=workers,
        progress=progress,
    )


def calibration_parts(count: int) -> dict[str, list[int]]:
    """Rows of each part of the first `count` calibration scenes: half to explore, a quarter to admit rules, a quarter
    to report. They take turns, so that a scene keeps its part however many are drawn."""
    return {
        part: [row for row in range(count) if _TURNS[row % len(_TURNS)] == part]
        for part in dict.fromkeys(_TURNS)
    }
