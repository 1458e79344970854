"""What `wild` costs beyond `lab`, one thing at a time: the regression head and the keypoints on scenes that are `lab`'s
but for some fields of the recipe.

    python -m benchmarks.gap [--policy DIR] [--scenes 640]

Scenes are drawn once into `--cache` from a seed that no split draws. MPJPE is pelvis-aligned, 24 joints; keypoints are
those of joints in sight, in percent of the detected box's side.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch

from hmr.body import Body, load_body
from hmr.checkpoint import load_policy
from hmr.data.augment import as_floats
from hmr.data.crops import CropCache, CropDataset, make_crops
from hmr.data.recipe import LAB, WILD, SceneRecipe
from hmr.policy import DiffusionPolicy
from hmr.pretrain_losses import joints_of

SEED, BATCH = 77, 64
FIELDS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "occluders": ("occluded", "occluders", "occluder_fraction"),
    "the picture": ("motion_blur", "motion_px", "blur_px", "noise", "jpeg_quality"),
    "boxes": ("box_jitter",),
    "truncation": ("truncation", "person_fraction"),
    "clutter": ("clutter",),
    "body shapes": ("betas_std",),
    "poses": ("poses",),
}


def recipes() -> Iterator[tuple[str, SceneRecipe]]:
    """`lab` with the fields of each row as in `wild`; last `wild` but for its poses, and `wild` itself."""
    for name, fields in FIELDS.items():
        yield name, dataclasses.replace(LAB, **{field: getattr(WILD, field) for field in fields})
    yield "all but poses", dataclasses.replace(WILD, name=LAB.name, poses=LAB.poses)
    yield "all", WILD


@torch.no_grad()
def measure(policy: DiffusionPolicy, body: Body, scenes: CropDataset) -> tuple[float, float]:
    """Mean MPJPE of the regression head, and how far keypoints in sight are off, in percent of the box's side."""
    errors_mm, off_percent = [], []
    for start in range(0, len(scenes), BATCH):
        stop = min(start + BATCH, len(scenes))
        rows = torch.utils.data.default_collate([scenes[row] for row in range(start, stop)])
        rows = as_floats(rows)
        seen = policy.look(rows["crops"])
        guess = policy.guess(policy.seen_features(seen, rows["geometry"]))
        joints = (joints_of(vector, body) for vector in (guess * policy.std + policy.mean, rows["vector"]))
        errors_mm.append(1000 * (next(joints) - next(joints)).norm(dim=-1).mean(dim=-1))
        off = (seen.keypoints - rows["keypoints"]).norm(dim=-1)[rows["visible"]]
        off_percent.append(
            100 * off / 2 * policy.config.crop_scale
        )  # a crop is 2 units and `crop_scale` boxes wide
    return torch.cat(errors_mm).mean().item(), torch.cat(off_percent).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--policy", type=Path, default=None, help="a checkpoint folder; default: the shipped one"
    )
    parser.add_argument("--scenes", type=int, default=640)
    parser.add_argument("--cache", type=Path, default=Path("runs/gap"))
    asked = parser.parse_args()
    policy, body = load_policy(asked.policy), load_body()
    print(f"policy {policy.digest()}, {asked.scenes} scenes a row\n")
    print("| as in `wild` | MPJPE of the head, mm | keypoints in sight, % of the box |\n|---|---:|---:|")
    for name, recipe in recipes():
        cache = CropCache(recipe, SEED, asked.scenes, policy.config.crop_size, policy.config.crop_scale)
        error_mm, percent = measure(policy, body, CropDataset(make_crops(cache, asked.cache, workers=2)))
        print(f"| {name} | {error_mm:.1f} | {percent:.1f} |", flush=True)


if __name__ == "__main__":
    main()
