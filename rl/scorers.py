"""Scorers that know the truth: what a perfect, or a perfect but noisy, critic would say.

For oracle runs and controls only. Their rows are stamped `uses_truth`, and no result may come from one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from hmr.body import Body
from hmr.metrics import mpjpe_mm
from hmr.types import Hypotheses, Sample, Truth
from rl.seeding import derive_generator

__all__ = ["TruthScorer"]


class TruthScorer:
    """Minus the MPJPE (24 joints, pelvis-aligned, mm) plus Gaussian noise of std `noise_mm`, drawn by
    sample id.

    `truth_of` looks the truth of a sample up by its id; KeyError from it is passed on.
    """

    uses_truth = True

    def __init__(
        self, body: Body, truth_of: Callable[[str], Truth], noise_mm: float = 0.0, seed: int = 0
    ) -> None:
        if noise_mm < 0:
            raise ValueError(f"noise_mm must be at least 0, not {noise_mm}")
        self.body = body
        self.truth_of = truth_of
        self.noise_mm = noise_mm
        self.seed = seed

    @property
    def name(self) -> str:
        return f"truth+{self.noise_mm:g}mm" if self.noise_mm else "truth"

    @torch.no_grad()
    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        joints_cam_m = self.body.joints(hypotheses.params)
        errors_mm = mpjpe_mm(joints_cam_m, self.truth_of(sample.id).joints_cam_m)
        noise = torch.randn(len(hypotheses), generator=derive_generator(self.seed, "truth-noise", sample.id))
        return [-value for value in (errors_mm + self.noise_mm * noise.to(errors_mm)).tolist()]
