"""The sampling time of denoisers of several sizes: one encoded image, M hypotheses, all calls of a sampling run.

    python -m benchmarks.performance.sampling [--samples 100] [--threads 1 2] [--repeats 5]

The time covers everything from features to `Hypotheses`: the calls of the denoiser, the steps of the solver and the
body parameters. Weights are random, because the time does not depend on them; the first row is the shipped policy with
its own solver. The minimum of the repeats is shown, because other processes only add time. The row for ScoreHypo has
its number of tokens, width, layers, heads and calls; the content of its tokens differs (`hmr.policy.denoisers`).
"""

from __future__ import annotations

import argparse
import copy
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.performance.figure import Figure, Goal, at_most
from hmr.policy.checkpoint import load_policy
from hmr.policy.config import DiffusionPolicyConfig
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import Box, Camera, Sample

COUNTS = (1, 20, 100, 1000)
SHAPES = {
    "mlp: width 384, depth 4, 8 calls": {"width": 384, "depth": 4, "num_inference_steps": 8},
    "tokens: 6 parts, width 192, depth 4, 8 calls": {
        "denoiser": "tokens", "tokens": "parts", "width": 192, "depth": 4, "heads": 4,
        "num_inference_steps": 8,
    },
    "tokens: 6 parts, width 384, depth 4, 8 calls": {
        "denoiser": "tokens", "tokens": "parts", "width": 384, "depth": 4, "heads": 8,
        "num_inference_steps": 8,
    },
    "tokens: 24 joints, width 192, depth 4, 8 calls": {
        "denoiser": "tokens", "tokens": "joints", "width": 192, "depth": 4, "heads": 4,
        "num_inference_steps": 8,
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


def encoded(policy: DiffusionPolicy) -> Features:
    """One image without anybody; the time of sampling does not depend on what is seen."""
    image = np.zeros((224, 224, 3), np.uint8)
    return policy.encode([Sample("x", image, Box(40.0, 20.0, 190.0, 210.0), Camera.estimate(224, 224))])


def milliseconds(policy: DiffusionPolicy, features: Features, samples: int, repeats: int) -> float:
    """The minimum time of sampling a group for one encoded image, after a warm-up."""
    times = []
    for _ in range(repeats + 1):
        generator = torch.Generator().manual_seed(0)
        start = time.perf_counter()
        policy.sample(features, samples, generator)
        times.append((time.perf_counter() - start) * 1e3)
    return min(times[1:])


def figures() -> list[Figure]:
    """The shipped policy against a policy with ScoreHypo's denoiser, and its cost by the number of hypotheses."""
    shipped = load_policy()
    features = encoded(shipped)
    peer = _with_denoiser(shipped, "ScoreHypo's: 52 tokens, width 512, depth 6, 4 calls")
    base = _with_denoiser(shipped, "base: 24 joints, width 512, depth 6, 4 calls")
    times = {count: milliseconds(shipped, features, count, 3) for count in COUNTS}
    slowest = milliseconds(peer, features, 100, 1)
    found = [
        Figure(
            f"{count} hypotheses, shipped",
            ms,
            "ms",
            goal={100: at_most(100.0), 1000: at_most(600.0)}.get(count),
        )
        for count, ms in times.items()
    ]
    compiled = copy.deepcopy(shipped)
    compiled.denoiser.compile()
    return [
        *found,
        Figure("a hypothesis of 1,000, shipped", times[1000] / 1000, "ms", "one of 20", times[20] / 20,
               Goal("ratio", "at least", 1.0), note="flat cost from 20 up"),
        Figure("100 hypotheses, shipped", times[100], "ms", "compiled by torch.compile",
               milliseconds(compiled, features, 100, 3)),
        Figure("100 hypotheses, shipped", times[100], "ms", "ScoreHypo's shape, 4 calls", slowest),
        Figure("100 hypotheses, base", milliseconds(base, features, 100, 1), "ms", "ScoreHypo's shape, 4 calls",
               slowest),
    ]  # fmt: skip


def _with_denoiser(shipped: DiffusionPolicy, name: str) -> DiffusionPolicy:
    """A policy of random weights for the same detections."""
    head = {"head_width": shipped.config.head_width, "head_depth": shipped.config.head_depth}
    return DiffusionPolicy(DiffusionPolicyConfig(**head, **SHAPES[name])).eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    shipped = load_policy()
    features = encoded(shipped)
    policies = {f"shipped: {shipped.config.num_inference_steps} calls of {shipped.config.solver}": shipped}
    policies |= {name: _with_denoiser(shipped, name) for name in SHAPES}
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
            row.append(f"{milliseconds(policy, features, args.samples, args.repeats):.0f}")
        table.add_row(name, f"{size:.1f}", *row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
