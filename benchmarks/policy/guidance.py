"""The effect of guidance on sampling: the policy alone, and guided by the detections of the embedded encoder.

    python -m benchmarks.policy.guidance [--split lab-test] [--images 24] [--samples 100] [--policy DIR]
        [--set step=0.3 ...]

The defaults of `GuidanceConfig` were chosen with it on `lab` scenes. Differences are paired, with bootstrap intervals;
min_m is over all samples; the time is that of sampling one image, without its detection.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from eval.benchmark.intervals import bootstrap_mean
from hmr.body.model import load_body
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.person_encoder import load_encoder
from hmr.metrics.errors import average_pose, mpjpe_mm
from hmr.policy.checkpoint import load_policy
from hmr.policy.guidance import DetectionGuidance, GuidanceConfig
from hmr.policy.policy import DiffusionPolicy, Features, Guidance
from hmr.synthetic.splits import SPLITS, draw_split
from hmr.synthetic.store import read_labelled, set_digest
from hmr.types import BodyParams, Labelled, Sample

COLUMNS = ("mean_m", "hypothesis 0", "averaged", "min_m", "ms per image")

GuidanceOf = Callable[[Sample, Features], Guidance | None]


def measure(
    policy: DiffusionPolicy, scenes: list[Labelled], samples: int, guidance_of: GuidanceOf
) -> Float[np.ndarray, "columns images"]:
    """Rows in the order of COLUMNS, one column per image; the noise is seeded by the index of the image."""
    body, rows = load_body(), []
    for index, scene in enumerate(scenes):
        features = policy.encode([scene.sample])
        guidance = guidance_of(scene.sample, features)
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(index)
        params = policy.sample(features, samples, generator, guidance=guidance)[0].params
        elapsed_ms = (time.perf_counter() - start) * 1e3
        candidates = BodyParams.cat([params, BodyParams.stack([average_pose(params)])])
        errors = mpjpe_mm(body.joints(candidates), scene.truth.joints_cam_m)
        drawn, averaged = errors[:-1], errors[-1]
        rows.append([*(x.item() for x in (drawn.mean(), drawn[0], averaged, drawn.min())), elapsed_ms])
    return np.array(rows).T


def variants(policy: DiffusionPolicy, config: GuidanceConfig) -> dict[str, GuidanceOf]:
    body, detector = load_body(), EmbeddedDetector(load_encoder())

    def guided(config: GuidanceConfig) -> GuidanceOf:
        return lambda sample, seen: DetectionGuidance(policy, body, seen, [detector.detect(sample)], config)

    return {
        "alone": lambda sample, seen: None,
        "keypoints": guided(dataclasses.replace(config, silhouette=0.0)),
        "keypoints and silhouette": guided(config),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", choices=SPLITS, default="lab-test")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--policy", type=Path)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of GuidanceConfig"
    )
    args = parser.parse_args()

    changes = {name: float(value) for name, value in (item.split("=") for item in args.set)}
    for name in ("last_steps", "iterations"):
        changes |= {name: int(changes[name])} if name in changes else {}
    policy = load_policy(args.policy)
    with tempfile.TemporaryDirectory() as root:
        folder = draw_split(args.split, Path(root), args.images, uses_truth=True)
        scenes, digest = read_labelled(folder), set_digest(folder)
    title = f"policy {policy.digest()}, {args.split}, {args.images} images ({digest}), MPJPE in mm"
    table = Table("guidance", *COLUMNS, title=title)
    base = None
    for name, guidance_of in variants(policy, dataclasses.replace(GuidanceConfig(), **changes)).items():
        columns = measure(policy, scenes, args.samples, guidance_of)
        base = columns if base is None else base
        table.add_row(name, *(f"{column.mean():.1f}" for column in columns))
        if base is not columns:
            gains = [bootstrap_mean(row[None]) for row in (columns - base)[:-1]]
            table.add_row(
                "  minus alone", *(f"[{gain.low:+.1f}, {gain.high:+.1f}]" for gain in gains if gain), ""
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
