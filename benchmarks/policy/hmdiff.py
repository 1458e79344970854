"""HMDiff's options of the sampler (`hmr/policy/distribution_alignment.py`) beside the policy's own sampler.

    python -m benchmarks.policy.hmdiff [--split wild-test] [--base shipped] [--images 100] [--samples 100]
        [--steps 1 --steps 4] [--start-time 0.33 --start-time 0.5] [--alignment 1]

For every number of solver steps: unit noise as the start, the distribution about the initial estimate, the alignment
with the detections' distributions, both (with the first of the start times), and unit noise multiplied by what gives it
the spread of the first start time. MPJPE in millimetres, with 95 %
intervals of the paired difference to unit noise in as many steps; min is over all samples; the time is the median CPU
time of sampling one image, without its detection. Noise is that of `meshcritic evaluate` (seed 0) in every row.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from jaxtyping import Float

from eval.benchmark.intervals import bootstrap_mean
from eval.benchmark.matched_spread import matching_scale
from eval.benchmark.protocol import noise_generator
from hmr.body.model import Body, load_body
from hmr.metrics.calibration import LEVEL, coverage
from hmr.metrics.errors import average_pose, mpjpe_mm, spread_mm
from hmr.policy.checkpoint import BASES, load_policy
from hmr.policy.config import SamplingSettings
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.synthetic.splits import draw_split
from hmr.synthetic.store import read_labelled, set_digest
from hmr.types import BodyParams, Labelled

ERRORS = ("mean", "hypothesis 0", "averaged", "min")
UNCOMPARED = ("calibration_80", "spread", "CPU ms")
SPREAD = len(ERRORS) + UNCOMPARED.index("spread")


def measure(
    policy: DiffusionPolicy, body: Body, encoded: Sequence[tuple[Labelled, Features]], samples: int
) -> Float[np.ndarray, "columns images"]:
    """Rows in the order of ERRORS and UNCOMPARED, one column per image."""
    rows = []
    for scene, features in encoded:
        begin = time.process_time()
        (group,) = policy.sample(features, samples, noise_generator(0, scene.sample))
        elapsed_ms = (time.process_time() - begin) * 1e3
        params, truth_m = group.params, scene.truth.joints_cam_m
        joints_m = body.joints(BodyParams.cat([params, BodyParams.stack([average_pose(params)])]))
        errors, drawn_m = mpjpe_mm(joints_m, truth_m), joints_m[:-1]
        drawn, averaged = errors[:-1], errors[-1]
        figures = [drawn.mean(), drawn[0], averaged, drawn.min()]
        uncertainty = [
            coverage(drawn_m, truth_m),
            spread_mm(drawn_m, torch.ones_like(scene.truth.visible)).item(),
        ]
        rows.append([*(figure.item() for figure in figures), *uncertainty, elapsed_ms])
    return np.array(rows).T


def variants(
    own: SamplingSettings, steps: int, start_times: Sequence[float], alignment: float
) -> dict[str, SamplingSettings]:
    """The settings by the name of their row; the first one is what the others are compared with."""
    unit = replace(own, num_inference_steps=steps, start="unit", alignment=0.0)
    from_estimate = {
        f"distribution, {time:g}": replace(unit, start="distribution", start_time=time)
        for time in start_times
    }
    rows = {"unit": unit, **from_estimate}
    to_align = list(rows)[:2]
    return rows | {f"{name}, aligned": replace(rows[name], alignment=alignment) for name in to_align}


def main(
    split: str = "wild-test",
    base: str = "shipped",
    images: int = 100,
    samples: int = 100,
    steps: Annotated[list[int], typer.Option()] = [1, 2, 4, 8],  # noqa: B006
    start_time: Annotated[list[float], typer.Option()] = [0.33, 0.5],  # noqa: B006
    alignment: float = 1.0,
) -> None:
    policy, body = load_policy(BASES[base]), load_body()
    own = SamplingSettings.of(policy.config)
    with tempfile.TemporaryDirectory() as root:
        folder = draw_split(split, Path(root), images)
        scenes, digest = read_labelled(folder), set_digest(folder)
    encoded = [(scene, policy.encode([scene.sample])) for scene in scenes]
    print(f"policy {policy.digest()}, {images} images of {split} ({digest}), {samples} samples")
    print(f"goal of calibration_80: {LEVEL * (samples - 1) / (samples + 1):.3f}\n")
    print(f"| steps | start | {' | '.join((*ERRORS, *UNCOMPARED))} |")
    print(f"|---:|---|{'---:|' * len((*ERRORS, *UNCOMPARED))}", flush=True)
    for number in dict.fromkeys([*steps, own.num_inference_steps]):
        unit, spreads = None, {}
        for name, settings in variants(own, number, start_time, alignment).items():
            settings.apply_to(policy.config)
            found = measure(policy, body, encoded, samples)
            spreads[name] = found[SPREAD].mean()
            print(f"| {number} | {name} | {' | '.join(_cells(found, unit))} |", flush=True)
            unit = found if unit is None else unit
        target_mm = spreads[f"distribution, {start_time[0]:g}"]
        found, scale = _widened(policy, body, encoded, samples, own, number, spreads["unit"], target_mm)
        print(f"| {number} | unit, noise x {scale:.2f} | {' | '.join(_cells(found, unit))} |", flush=True)


def _widened(
    policy: DiffusionPolicy,
    body: Body,
    encoded: Sequence[tuple[Labelled, Features]],
    samples: int,
    own: SamplingSettings,
    steps: int,
    unit_mm: float,
    target_mm: float,
) -> tuple[Float[np.ndarray, "columns images"], float]:
    """Unit noise multiplied until the spread is `target_mm`, and the factor."""

    def at(scale: float) -> Float[np.ndarray, "columns images"]:
        temperature = own.noise_temperature * scale
        unit = replace(own, num_inference_steps=steps, start="unit", alignment=0.0)
        replace(unit, noise_temperature=temperature).apply_to(policy.config)
        return measure(policy, body, encoded, samples)

    scale = matching_scale(lambda scale: at(scale)[SPREAD].mean(), unit_mm, target_mm)
    return at(scale), scale


def _cells(
    found: Float[np.ndarray, "columns images"], unit: Float[np.ndarray, "columns images"] | None
) -> list[str]:
    errors = [f"{row.mean():.1f}" for row in found[: len(ERRORS)]]
    if unit is not None:
        differences = (found - unit)[: len(ERRORS)]
        intervals = [bootstrap_mean(row[None]) for row in differences]
        errors = [
            f"{cell} ({interval.low:+.1f} to {interval.high:+.1f})" if interval else cell
            for cell, interval in zip(errors, intervals, strict=True)
        ]
    covered, spread, elapsed_ms = found[len(ERRORS) :]
    return [*errors, f"{covered.mean():.3f}", f"{spread.mean():.0f}", f"{np.median(elapsed_ms):.0f}"]


if __name__ == "__main__":
    typer.run(main)
