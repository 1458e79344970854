"""Splits the difference between `wild` and `lab` by cause, on `lab` scenes with some fields of the recipe as in `wild`.

    python -m benchmarks.policy.gap [--policy DIR] [--scenes 640]

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

from hmr.detection.person_encoder import load_encoder
from hmr.policy.checkpoint import load_policy
from hmr.policy.condition import unpack_points
from hmr.policy.policy import DiffusionPolicy
from hmr.pretraining.crop_cache import CropCache
from hmr.pretraining.losses import joints_of
from hmr.pretraining.rendered_people import read_crops
from hmr.pretraining.simulation import SimulatedPeople
from hmr.synthetic.recipe import LAB, WILD, SceneRecipe
from hmr.types import NUM_JOINTS

SEED = 77
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
def measure(
    policy: DiffusionPolicy, crop_scale: float, people: SimulatedPeople
) -> tuple[float, float, float]:
    """Mean MPJPE of the regression head in mm, and mean errors of visible keypoints in per cent of the box side and of
    their depths in mm."""
    found, visible = unpack_points(people.features), people.visible
    estimate = policy.initial_estimate(people.features) * policy.std + policy.mean
    estimated, true = joints_of(policy, estimate), joints_of(policy, people.vector)
    offset = (found.position[:, :NUM_JOINTS] - people.keypoints).norm(dim=-1)[visible]
    depth_error_m = (found.depth_m[:, :NUM_JOINTS] - true[..., 2]).abs()[visible]
    crop_percent = 100 / 2 * crop_scale  # a crop is 2 units and `crop_scale` boxes wide
    joint_error_mm = 1000 * (estimated - true).norm(dim=-1).mean()
    return float(joint_error_mm), float(crop_percent * offset.mean()), float(1000 * depth_error_m.mean())


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
    policy, encoder = load_policy(options.policy), load_encoder()
    scale = encoder.config.crop_scale
    print(f"policy {policy.digest()}, {options.scenes} scenes per row\n")
    print("| as in `wild` | MPJPE of the head, mm | visible keypoints, % of the box | their depths, mm |")
    print("|---|---:|---:|---:|")
    for name, recipe in recipes():
        cache = CropCache(recipe, SEED, options.scenes, encoder.config.crop_size, scale)
        people = read_crops(cache, encoder, options.cache, workers=2)
        print("| {} | {:.1f} | {:.1f} | {:.1f} |".format(name, *measure(policy, scale, people)), flush=True)


if __name__ == "__main__":
    main()
