"""Scorers that read the ground truth, exactly or with noise, for controls and upper bounds.

Their rows are marked `uses_truth`; no result may come from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from common.seeding import derive_generator
from hmr.body.model import Body
from hmr.metrics.errors import mpjpe_mm
from hmr.types import Hypotheses, Sample, Truth
from rl.scorers.identity import hash_of

__all__ = ["NoisyTruthScorer", "TruthScorer", "noise_share"]


class TruthScorer:
    """Minus the MPJPE (24 joints, pelvis-aligned, mm).

    `truth_of` returns the truth of a sample by its id; a KeyError from it is passed on.
    """

    name, uses_truth = "truth", True

    def __init__(self, body: Body, truth_of: Callable[[str], Truth]) -> None:
        self.body, self.truth_of = body, truth_of

    def digest(self) -> str:
        return hash_of("truth", 0.0, 0)  # 0.0 and 0 keep the digests of stored sets

    @torch.no_grad()
    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        joints_cam_m = self.body.joints(hypotheses.params)
        return (-mpjpe_mm(joints_cam_m, self.truth_of(sample.id).joints_cam_m)).tolist()


class NoisyTruthScorer:
    """A simulated critic of a given quality: the truth with noise proportional to the std of the errors in a group.

    Its mean Spearman's rho with the true errors is `srcc` if errors are Gaussian within a group. Raises ValueError
    unless 0 < srcc <= 1.
    """

    uses_truth = True

    def __init__(self, body: Body, truth_of: Callable[[str], Truth], srcc: float, seed: int = 0) -> None:
        self.exact = TruthScorer(body, truth_of)
        self.srcc, self.noise_ratio, self.seed = srcc, noise_share(srcc), seed

    @property
    def name(self) -> str:
        return f"noisy-truth:{self.srcc:g}"

    def digest(self) -> str:
        return hash_of("noisy-truth", self.srcc, self.seed)

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        exact = torch.tensor(self.exact.score(sample, hypotheses), dtype=torch.float64)
        generator = derive_generator(self.seed, "noisy-truth", sample.id)
        noise = torch.randn(len(exact), generator=generator, dtype=torch.float64)
        return (exact + self.noise_ratio * exact.std() * noise).tolist()


def noise_share(srcc: float) -> float:
    """The standard deviation of the noise over that of the signal for which the noisy signal has a Spearman's rho of
    `srcc` with the signal: rho = 6 / pi asin(r / 2) for Gaussians with Pearson's r (Pearson 1907), and
    r = 1 / sqrt(1 + ratio^2)."""
    if not 0 < srcc <= 1:
        raise ValueError(f"the srcc of a critic must be above 0 and at most 1, not {srcc}")
    pearson = 2 * math.sin(math.pi * srcc / 6)
    return math.sqrt(max(0.0, pearson**-2 - 1))
