"""The sampling time of denoisers of several sizes: one encoded image, M hypotheses, all calls of a sampling run.

    python -m benchmarks.denoiser_shapes [--samples 100] [--threads 1 2] [--repeats 5]

The time covers everything from features to `Hypotheses`: the calls of the denoiser, the steps of the solver and the
body parameters. Weights are random, because the time does not depend on them; the first row is the shipped policy with
its own solver. The minimum of the repeats is shown, because other processes only add time. The features are as wide as
those of the shipped policy. The row for ScoreHypo has its number of tokens, width, layers, heads and calls; the content
of its tokens differs (`hmr.policy.denoisers`).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hmr.policy.checkpoint import load_policy
from hmr.policy.policy import DiffusionPolicy, DiffusionPolicyConfig
from hmr.types import Box, Camera, Sample

SHAPES = {
    "mlp: width 384, depth 4, 8 calls": {"width": 384, "depth": 4},
    "tokens: 6 parts, width 192, depth 4, 8 calls": {
        "denoiser": "tokens", "tokens": "parts", "width": 192, "depth": 4, "heads": 4,
    },
    "tokens: 6 parts, width 384, depth 4, 8 calls": {
        "denoiser": "tokens", "tokens": "parts", "width": 384, "depth": 4, "heads": 8,
    },
    "tokens: 24 joints, width 192, depth 4, 8 calls": {
        "denoiser": "tokens", "tokens": "joints", "width": 192, "depth": 4, "heads": 4,
    },
    "base: 24 joints, width 512, depth 6, 4 calls": {
        "denoiser": "tokens", "tokens": "joints", "width": 512, "depth": 6, "num_inference_steps": 4,
    },
    "base by its own recipe, 6 calls": {
        "denoiser": "tokens", "tokens": "joints", "width": 512, "depth": 6, "num_inference_steps": 6,
    },
    "ScoreHypo's: 52 tokens, width 512, depth 6, 4 calls": {
        "denoiser": "tokens", "tokens": "columns", "width": 512, "depth": 6, "num_inference_steps": 4,
    },
}  # fmt: skip


def milliseconds(policy: DiffusionPolicy, samples: int, repeats: int) -> float:
    """The minimum time of sampling a group for one encoded image, after a warm-up."""
    image = np.zeros((224, 224, 3), np.uint8)
    features = policy.encode([Sample("x", image, Box(40.0, 20.0, 190.0, 210.0), Camera.estimate(224, 224))])
    times = []
    for _ in range(repeats + 1):
        generator = torch.Generator().manual_seed(0)
        start = time.perf_counter()
        policy.sample(features, samples, generator)
        times.append((time.perf_counter() - start) * 1e3)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    shipped = load_policy()
    policies = {f"shipped: {shipped.config.num_inference_steps} calls of {shipped.config.solver}": shipped}
    widths = shipped.config.encoder_widths
    for name, shape in SHAPES.items():
        policies[name] = DiffusionPolicy(DiffusionPolicyConfig(encoder_widths=widths, **shape)).eval()
    titles = [
        "denoiser",
        "parameters, M",
        *(f"ms, {count} thread{'s'[: count > 1]}" for count in args.threads),
    ]
    table = Table(*titles, title=f"{args.samples} hypotheses of one encoded image")
    for name, policy in policies.items():
        size = sum(parameter.numel() for parameter in policy.denoiser.parameters()) / 1e6
        row = []
        for threads in args.threads:
            torch.set_num_threads(threads)
            row.append(f"{milliseconds(policy, args.samples, args.repeats):.0f}")
        table.add_row(name, f"{size:.1f}", *row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
