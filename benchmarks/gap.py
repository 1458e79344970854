"""Splits the difference between `wild` and `lab` by cause, on `lab` scenes with some fields of the recipe as in `wild`.

    python -m benchmarks.gap [--policy DIR] [--scenes 640]

Measures the regression head, keypoints and depths. Scenes are rendered once into `--cache` from a seed that no split
uses. MPJPE is pelvis-aligned over 24 joints. Keypoints, in per cent of the side of the detected box, and depths behind
the pelvis are those of the encoder for visible joints.
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
    """`lab` with the fields of each row as in `wild`; at the end `wild` without its poses, and `wild` itself."""
    for name, fields in FIELDS.items():
        yield name, dataclasses.replace(LAB, **{field: getattr(WILD, field) for field in fields})
    yield "all but poses", dataclasses.replace(WILD, name=LAB.name, poses=LAB.poses)
    yield "all", WILD


@torch.no_grad()
def measure(policy: DiffusionPolicy, body: Body, scenes: CropDataset) -> tuple[float, float, float]:
    """Mean MPJPE of the regression head in mm, and mean errors of visible keypoints in per cent of the box side and of
    their depths in mm."""
    columns: tuple[list[torch.Tensor], ...] = ([], [], [])
    for start in range(0, len(scenes), BATCH):
        stop = min(start + BATCH, len(scenes))
        rows = as_floats(torch.utils.data.default_collate([scenes[row] for row in range(start, stop)]))
        output = policy.encode_crops(rows["crops"])
        estimate = policy.initial_estimate(policy.encoder_features(output, rows["geometry"]))
        estimated, true = (
            joints_of(vector, body) for vector in (estimate * policy.std + policy.mean, rows["vector"])
        )
        offset = (output.keypoints - rows["keypoints"]).norm(dim=-1)[rows["visible"]]
        depth_error = (output.depth_m - true[..., 2]).abs()[rows["visible"]]
        crop_percent = 100 / 2 * policy.config.crop_scale  # a crop is 2 units and `crop_scale` boxes wide
        errors = (
            1000 * (estimated - true).norm(dim=-1).mean(dim=-1),
            crop_percent * offset,
            1000 * depth_error,
        )
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
    options = parser.parse_args()
    policy, body = load_policy(options.policy), load_body()
    print(f"policy {policy.digest()}, {options.scenes} scenes per row\n")
    print("| as in `wild` | MPJPE of the head, mm | visible keypoints, % of the box | their depths, mm |")
    print("|---|---:|---:|---:|")
    for name, recipe in recipes():
        cache = CropCache(recipe, SEED, options.scenes, policy.config.crop_size, policy.config.crop_scale)
        scenes = CropDataset(make_crops(cache, options.cache, workers=2))
        print("| {} | {:.1f} | {:.1f} | {:.1f} |".format(name, *measure(policy, body, scenes)), flush=True)


if __name__ == "__main__":
    main()
