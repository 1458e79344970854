"""Shape prior: Mahalanobis distance of the betas.

Betas are the coordinates of a PCA scaled to unit variance (SMPL, Loper et al. 2015, section 3), so their Gaussian is
the standard one and the distance is their norm. The root mean square is in standard deviations for any number of betas.
The average body has the best value, not one at the expected norm sqrt(10), which would penalise a conservative estimate
of an average person.
"""

from __future__ import annotations

import torch

from agent.types import Case, Evidence, Need

__all__ = ["ShapePrior"]

FAULT_SD = 2.0


class ShapePrior:
    """Root-mean-square of the betas, in standard deviations of the population."""

    name = "shape_prior"
    needs: frozenset[Need] = frozenset()

    def measure(self, case: Case) -> Evidence:
        betas = case.hypotheses.params.betas
        rms_sd = torch.linalg.vector_norm(betas, dim=-1) / betas.shape[-1] ** 0.5
        values = tuple(rms_sd.tolist())
        return Evidence(
            tool=self.name,
            metric="shape_rms_sd",
            unit="sd",
            values=values,
            parts=tuple(("torso",) if value > FAULT_SD else () for value in values),
            sentences=tuple(_sentence(value) for value in values),
        )


def _sentence(rms_sd: float) -> str:
    if rms_sd > FAULT_SD:
        return f"The build is {rms_sd:.1f} standard deviations from average: hardly anyone has this body."
    return f"The build is {rms_sd:.1f} standard deviations from average."
