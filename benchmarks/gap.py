"""What `wild` costs beyond `lab`, one thing at a time: the regression head, keypoints and depths on scenes that are
`lab`'s but for some fields of the recipe.

    python -m benchmarks.gap [--policy DIR] [--scenes 640]

Scenes are drawn once into `--cache` from a seed that no split draws. MPJPE is pelvis-aligned, 24 joints; keypoints, in
percent of the detected box's side, and depths behind the pelvis are the encoder's, of joints in sight.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch

from hmr.body.model import Body, load_body
from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy
from hmr.pretraining.augmentation import as_floats
from hmr.pretraining.crop_cache import CropCache, CropDataset, make_crops
from hmr.pretraining.losses import joints_of
from hmr.synthetic.recipe import LAB, WILD, SceneRecipe

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
def measure(policy: DiffusionPolicy, body: Body, scenes: CropDataset) -> tuple[float, float, float]:
    """Means of the regression head's MPJPE, of how far keypoints in sight are off, in percent of the box's side, and of
    how far their depths are, in mm."""
    columns: tuple[list[torch.Tensor], ...] = ([], [], [])
    for start in range(0, len(scenes), BATCH):
        stop = min(start + BATCH, len(scenes))
        rows = as_floats(torch.utils.data.default_collate([scenes[row] for row in range(start, stop)]))
        seen = policy.encode_crops(rows["crops"])
        guess = policy.initial_estimate(policy.encoder_features(seen, rows["geometry"]))
        guessed, true = (
            joints_of(vector, body) for vector in (guess * policy.std + policy.mean, rows["vector"])
        )
        off = (seen.keypoints - rows["keypoints"]).norm(dim=-1)[rows["visible"]]
        deep = (seen.depth_m - true[..., 2]).abs()[rows["visible"]]
        crop_percent = 100 / 2 * policy.config.crop_scale  # a crop is 2 units and `crop_scale` boxes wide
        errors = (1000 * (guessed - true).norm(dim=-1).mean(dim=-1), crop_percent * off, 1000 * deep)
        for column, error in zip(columns, errors, strict=True):
            column.append(error)
    return tuple(torch.cat(column).mean().item() for column in columns)


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
    print("| as in `wild` | MPJPE of the head, mm | keypoints in sight, % of the box | their depths, mm |")
    print("|---|---:|---:|---:|")
    for name, recipe in recipes():
        cache = CropCache(recipe, SEED, asked.scenes, policy.config.crop_size, policy.config.crop_scale)
        scenes = CropDataset(make_crops(cache, asked.cache, workers=2))
        print("| {} | {:.1f} | {:.1f} | {:.1f} |".format(name, *measure(policy, body, scenes)), flush=True)


if __name__ == "__main__":
    main()
