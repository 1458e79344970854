"""Scales the noise of the base policy to the spread of an aligned one: a baseline for alignment that only narrows.

The starting noise is scaled until the spread over all joints is within 1 % of the aligned policy's. The match uses the
images and samples of the evaluation itself, so that no difference in spread contributes to the difference in errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from eval.benchmark.protocol import noise_generator
from hmr.body.model import Body
from hmr.metrics.errors import spread_mm
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import NUM_JOINTS, Detection, Hypotheses, Labelled, Sample

__all__ = ["SPREAD_TOLERANCE", "NoiseScaledPolicy", "SpreadAtScale", "matching_scale"]

SPREAD_TOLERANCE = 0.01
MAX_STEPS = 20
MAX_STEP = 3.0  # of the scale's logarithm


class NoiseScaledPolicy:
    """A policy whose starting noise is multiplied by `noise_scale`."""

    def __init__(self, policy: DiffusionPolicy, noise_scale: float) -> None:
        self.policy, self.noise_scale = policy, noise_scale

    def encode(self, samples: Sequence[Sample], detections: Sequence[Detection] | None = None) -> Features:
        return self.policy.encode(samples, detections)

    def sample(self, features: Features, num_samples: int, generator: torch.Generator) -> list[Hypotheses]:
        return self.policy.sample(features, num_samples, generator, self.noise_scale)


class SpreadAtScale:
    """Noise scale -> spread over all joints in mm, of the samples that `evaluate_policy` draws with this seed.

    Images are encoded once; vertices and the truth are not needed.
    """

    def __init__(
        self, policy: DiffusionPolicy, body: Body, cases: Sequence[Labelled], num_samples: int, seed: int
    ) -> None:
        self.policy, self.body, self.num_samples, self.seed = policy, body, num_samples, seed
        self.encoded = [(case.sample, policy.encode([case.sample])) for case in cases]

    def __call__(self, noise_scale: float) -> float:
        all_joints = torch.ones(NUM_JOINTS, dtype=torch.bool)
        spreads = []
        for sample, features in self.encoded:
            generator = noise_generator(self.seed, sample)
            group = self.policy.sample(features, self.num_samples, generator, noise_scale)[0]
            spreads.append(spread_mm(self.body.joints(group.params), all_joints).item())
        return float(np.mean(spreads))


def matching_scale(spread_at: Callable[[float], float], base_mm: float, target_mm: float) -> float:
    """The noise scale whose spread is within SPREAD_TOLERANCE of `target_mm`; `base_mm` is the spread at scale 1.

    Uses the secant method on logarithms: the spread is nearly a power of the noise, so that two or three evaluations
    are enough, where bisection needs seven. Raises ValueError if no such scale is found.
    """
    scale, spread, power = 1.0, base_mm, 1.0
    for _ in range(MAX_STEPS):
        if abs(spread / target_mm - 1) <= SPREAD_TOLERANCE:
            return scale
        step = math.log(target_mm / spread) / power
        step, before = min(max(step, -MAX_STEP), MAX_STEP), spread
        scale *= math.exp(step)
        spread = spread_at(scale)
        power = math.log(spread / before) / step
        if power <= 0:  # more noise no longer increases the spread
            break
    raise ValueError(
        f"no noise scale changes the spread of the base policy from {base_mm:.1f} to {target_mm:.1f} mm"
    )
